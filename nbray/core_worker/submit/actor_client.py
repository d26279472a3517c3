"""An actor as its caller sees it: what is known of it, and the calls that wait or are with it.

Calls wait while the actor is being created. Those that were in flight when it died, or are made
while it is restarted, are repeated if the actor's ``max_task_retries`` allows it, and fail
otherwise. What is repeated goes in front of what was submitted later, which may wait for it. Every
call gets an answer.

Its life (`actor_state`) follows what the raylet tells and what becomes of the connection; both may
come late, so its process is named by its id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from nbray.common.giving_back import shrink
from nbray.core_worker.decisions import AttemptRaised, Failed, PushCalls, WakeAfter
from nbray.core_worker.failures import call_error
from nbray.core_worker.submit.actor_state import TRANSITIONS, Event, State
from nbray.core_worker.tasks import (
    DOUBTED,
    ENDED,
    GONE,
    PUSHED,
    QUEUED,
    READY,
    RETURNED,
    ActorCall,
    cancelled,
)
from nbray.exceptions import ActorUnavailableError
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.messages import ActorState, KillActor, TaskDone, WatchActor
from nbray.wire.records import Address

LAST_REPLIES_S = 1.0
_ASK_AGAIN_S = 1.0
_ENDED = Cause(CauseKind.ENDED, "the actor has ended")

_ALIVE, _RESTARTING, _DEAD = State.ALIVE, State.RESTARTING, State.DEAD
_TOLD = {"ALIVE": Event.STARTED, "RESTARTING": Event.LOST, "DEAD": Event.ENDED}


class Clients(Protocol):
    """What a client needs of all of them.

    Attributes:
        epoch: what the time of day was at time 0, in seconds, for stories.
    """

    epoch: float

    def at(self, worker: Address, client: ActorClient) -> None:
        """An actor lives there."""

    def decide(self, decision: object) -> None:
        """Have it carried out."""

    def push(self, worker: Address, call: ActorCall) -> None:
        """Have a call sent to its actor."""

    def to_raylet(self, message: WatchActor | KillActor) -> None:
        """Tell the raylet of this node."""

    def may_retry(self, call: ActorCall, done: TaskDone) -> bool:
        """Whether a call that was answered so is to be made again."""


class ActorClient:
    """This process's side of one actor.

    A restarted actor may live before the end of its former process is heard of, so calls without a
    reply are kept by the process to which they were sent.

    Attributes:
        state: what is known of the actor.
        story: how it came to that, the newest last.
    """

    def __init__(self, calls: Clients, actor_id: bytes) -> None:
        self._calls = calls
        self._actor_id = actor_id
        self.state = State.PENDING
        self.story: list[str] = []
        self._worker: Address | None = None
        self._cause = _ENDED
        self._version = -1
        self._watching = False
        self._queue: deque[ActorCall] = deque()
        self._in_flight: dict[bytes, dict[bytes, ActorCall]] = {}
        self._in_doubt: list[ActorCall] = []
        self._submitted = 0
        self._may_overtake = False  # a queued call that could be sent may be behind one that cannot

    def _move(self, event: Event, now: float, detail: str = "") -> None:
        name = f"Actor {self._actor_id.hex()}"
        TRANSITIONS.move(
            self, event, now + self._calls.epoch, detail, name, f"version {self._version}"
        )

    # --- calls --------------------

    def submit(self, call: ActorCall) -> bool:
        """Take a call, whose dependencies may still be incomplete; whether it is to be dispatched.

        Most are not, for they are sent at once.
        """
        if self.state is _DEAD:
            self._fail_dead(call)
            return False
        self._submitted += 1
        call.number = self._submitted
        worker, queue = self._worker, self._queue
        is_queued = worker is None or bool(queue) or call.unresolved > 0
        if worker is not None and not is_queued:  # as most
            call.state = PUSHED[READY[call.state]]
            worker_id = worker.worker_id
            in_flight = self._in_flight.get(worker_id)
            if in_flight is None:
                in_flight = self._in_flight[worker_id] = {}
            in_flight[call.spec.task_id] = call
            self._calls.push(worker, call)
        else:
            if not call.unresolved:
                call.state = READY[call.state]
            if queue and call.options.out_of_order:
                self._may_overtake = True
            queue.append(call)
        if not self._watching:
            self._watch()
        return is_queued

    def _watch(self) -> None:
        if not self._watching and self.state is not _DEAD:
            self._watching = True
            self._calls.to_raylet(WatchActor(self._actor_id, self._version))

    def resolved(self, call: ActorCall) -> None:
        """The last dependency of a call that waits is complete."""
        if call.state is GONE:
            return  # it was cancelled, or failed with the actor
        call.state = READY[call.state]
        queue = self._queue
        if self.state is _RESTARTING or not call.options.out_of_order or queue[0] is call:
            self.dispatch()
        elif self._worker is not None:  # else it will be sent with the others
            queue.remove(call)
            self._push(self._worker, [call])

    def dispatch(self) -> None:
        """Send the calls at the head of the queue whose dependencies are complete.

        Calls that may run out of order do not wait for others' dependencies.
        """
        queue = self._queue
        if not queue:
            return
        worker = self._worker
        if worker is None:
            if self.state is _RESTARTING:
                self._refuse()
            return
        pushed: list[ActorCall] = []
        while queue and queue[0].state is QUEUED:
            pushed.append(queue.popleft())
        if queue and self._may_overtake:
            ready = [c for c in queue if c.options.out_of_order and c.state is QUEUED]
            for call in ready:
                queue.remove(call)
            pushed += ready
        self._may_overtake = False
        if pushed:
            self._push(worker, pushed)

    def _push(self, worker: Address, calls: list[ActorCall]) -> None:
        in_flight = self._in_flight.setdefault(worker.worker_id, {})
        for call in calls:
            call.state = PUSHED[call.state]
            in_flight[call.spec.task_id] = call
        self._calls.decide(PushCalls(worker, calls))

    def _refuse(self) -> None:
        """The actor is being restarted: calls that would be sent, and may not be repeated, fail."""
        waiting: deque[ActorCall] = deque()
        refused: list[ActorCall] = []
        behind = False
        for call in self._queue:
            is_ready = call.state is QUEUED
            behind |= not is_ready
            may_go = is_ready and (call.options.out_of_order or not behind)
            (refused if may_go and call.options.retries == 0 else waiting).append(call)
        self._queue = waiting
        for call in refused:
            self._fail_lost(call, executed=False)

    def unsendable(self, call: ActorCall, worker_id: bytes, error: Exception) -> None:
        """A call that was to be pushed cannot travel."""
        if self._in_flight.get(worker_id, {}).pop(call.spec.task_id, None) is not None:
            self._fail(call, error)

    def _sent(self) -> Iterator[ActorCall]:
        for calls in self._in_flight.values():
            yield from calls.values()

    def unfinished(self) -> Iterator[ActorCall]:
        """The calls without a reply."""
        yield from self._sent()
        yield from self._queue

    def shrink(self) -> None:
        """Give the room of calls back that have ended."""
        for calls in self._in_flight.values():
            shrink(calls)

    def pending(self) -> int:
        """How many calls have no reply; from any thread."""
        return len(self._queue) + sum(len(calls) for calls in list(self._in_flight.values()))

    def knows(self, task_id: bytes) -> bool:
        """Whether that call waits here or is with the actor."""
        return any(task_id in calls for calls in self._in_flight.values()) or any(
            call.spec.task_id == task_id for call in self._queue
        )

    def cancel(self, task_id: bytes) -> bytes:
        """Fail a call that still waits; the process of the actor for one that was sent.

        That one is not made again when the process goes.
        """
        for worker_id, calls in self._in_flight.items():
            sent = calls.get(task_id)
            if sent is not None:
                sent.cancelled = True
                return worker_id
        for call in self._queue:
            if call.spec.task_id == task_id:
                self._queue.remove(call)
                self._fail(call, cancelled(call.spec))
                self.dispatch()  # those behind it may have waited for its arguments alone
                break
        return b""

    def first_in_flight(self) -> ActorCall | None:
        """The oldest call that the actor has not answered."""
        return next(self._sent(), None)

    # --- news --------------------

    def told(self, state: ActorState, now: float, *, at_once: bool = False) -> None:
        """News of the actor from the raylet.

        News of its death may overtake the replies that it sent before, so calls in flight fail
        when their connection closes, or ``LAST_REPLIES_S`` later, unless ``at_once``.
        """
        self._watching = False
        if state.version <= self._version:
            self._watch()
            return
        self._version = state.version
        if self.state is _DEAD:
            return
        event = _TOLD.get(state.state, Event.MADE)
        in_doubt, self._in_doubt = self._in_doubt, []
        self._move(event, now, str(state.cause) if state.cause is not None else "")
        if event is Event.ENDED:
            self._cause = state.cause or _ENDED
            for call in in_doubt:
                self._fail_dead(call)
            self._retire(None, 0.0 if at_once else LAST_REPLIES_S, now)
            while self._queue:
                self._fail_dead(self._queue.popleft())
            return
        for call in in_doubt:
            self._fail_lost(call)
        if event is Event.LOST:
            self._retire(None, LAST_REPLIES_S, now)
        elif event is Event.STARTED and state.address is not None:
            self._move_to(state.address, now)
        self._watch()

    def _move_to(self, address: Address, now: float) -> None:
        if self._worker is None or self._worker.worker_id != address.worker_id:
            self._retire(address, LAST_REPLIES_S, now)
            self._may_overtake = True
            self._calls.at(address, self)

    def _retire(self, worker: Address | None, seconds: float, now: float) -> None:
        """The actor has another process, or none: what the former sent still counts for so long."""
        former, self._worker = self._worker, worker
        if former is None:
            return
        worker_id = former.worker_id
        if seconds and self._in_flight.get(worker_id):
            self._calls.decide(
                WakeAfter(seconds, lambda then: self.process_gone(worker_id, True, then))
            )
        else:
            self.process_gone(worker_id, True, now)

    def done(self, worker_id: bytes, message: TaskDone) -> ActorCall | None:
        """A reply came: the call if it has ended."""
        in_flight = self._in_flight.get(worker_id)
        call = in_flight.pop(message.task_id, None) if in_flight else None
        if call is None:
            return None
        # A dead actor runs nothing again: what the call raised is its end.
        if message.retry and self.state is not _DEAD and self._calls.may_retry(call, message):
            self._calls.decide(AttemptRaised(call.spec, worker_id, message))
            call.again()
            self._go_first([call])
            self.dispatch()
            return None
        call.state = ENDED[call.state]
        return call

    def _go_first(self, again: list[ActorCall]) -> None:
        """Queue calls once more, in front of those that were submitted after them."""
        for call in again:
            call.state = RETURNED[call.state]
        again.sort(key=_number)
        queue = self._queue
        if not queue or not again or again[-1].number < queue[0].number:
            queue.extendleft(reversed(again))
        else:
            self._queue = deque(sorted([*again, *queue], key=_number))
        self._may_overtake = True

    def process_gone(self, worker_id: bytes, peer_ended: bool, now: float) -> None:
        """A process of the actor went: its calls are made again, or fail."""
        is_current = self._worker is not None and self._worker.worker_id == worker_id
        if is_current:
            self._worker = None
            if self.state is _ALIVE:
                self._move(Event.CLOSED, now, f"process {worker_id.hex()[:8]}")
        again: list[ActorCall] = []
        for call in self._in_flight.pop(worker_id, {}).values():
            if self.state is _DEAD:
                self._fail_dead(call)
            elif call.cancelled:
                self._fail(call, cancelled(call.spec))
            elif call.retries != 0:
                call.again()
                again.append(call)
            elif is_current and self.state is not _RESTARTING:
                call.state = DOUBTED[call.state]
                self._in_doubt.append(call)  # until it is known what becomes of the actor
            else:
                self._fail_lost(call)
        self._go_first(again)
        self._watch()
        if is_current and not peer_ended:
            self._calls.decide(WakeAfter(_ASK_AGAIN_S, self._ask_again))
        self.dispatch()

    def _ask_again(self, _now: float) -> None:
        """The actor was out of reach and lives, so there may be no news of it: ask where it is."""
        if self._worker is None and self.state is not _DEAD:
            self._version -= 1
            self._watching = False
            self._watch()

    # --- calls fail --------------------

    def fail_all(self, error: Exception) -> None:
        """Give all calls up."""
        calls = [*self._in_doubt, *self.unfinished()]
        for waiting in (self._in_doubt, self._in_flight, self._queue):
            waiting.clear()
        for call in calls:
            self._fail(call, error)

    def _fail(self, call: ActorCall, error: Exception) -> None:
        call.state = ENDED[call.state]
        self._calls.decide(Failed(call.spec, error))

    def _fail_dead(self, call: ActorCall) -> None:
        """Fail a call of a dead actor."""
        self._fail(call, call_error(self._cause, self._actor_id.hex(), call.spec.name))

    def _fail_lost(self, call: ActorCall, executed: bool = True) -> None:
        """Fail a call of an actor that is being restarted."""
        actor_id, name = self._actor_id.hex(), call.spec.name
        if executed:
            text = (
                f"The actor {actor_id} is unavailable: its process ended during {name}, and "
                "it is being restarted. The task may or may not have been executed on the actor. "
                "Set max_task_retries to repeat such calls."
            )
        else:
            text = (
                f"The actor {actor_id} is unavailable: it is being restarted, and {name} was "
                "not executed. Set max_task_retries to have such calls wait for it."
            )
        self._fail(call, ActorUnavailableError(actor_id, text))


def _number(call: ActorCall) -> int:
    return call.number
