"""Calls to actors: in the order of submission, over one connection to the actor's process.

The client of an actor follows its state by the raylet. Calls wait while the actor is being
created. Those that were in flight when it died, or are made while it is restarted, are repeated if
the actor's ``max_task_retries`` allows it, and fail otherwise. What is repeated goes in front of
what was submitted later, which may wait for it. Every call gets an answer.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nbray.core_worker.failures import call_error
from nbray.core_worker.task_options import TaskOptions
from nbray.exceptions import ActorUnavailableError, PendingCallsLimitExceeded
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.connection import Connection
from nbray.wire.frames import UnsendableError
from nbray.wire.messages import (
    ActorState,
    KillActor,
    PushTask,
    TaskDone,
    WatchActor,
)
from nbray.wire.records import TaskSpec

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

logger = logging.getLogger(__name__)

LAST_REPLIES_S = 1.0
_KILLED = Cause(CauseKind.KILLED, "it was killed by `nbray.kill`")
_ENDED = Cause(CauseKind.ENDED, "the actor has ended")
_ASK_AGAIN_S = 1.0


class ActorCall:
    """One call whose reply has not come."""

    __slots__ = ("number", "options", "retries", "spec", "submitted", "unresolved")

    def __init__(self, spec: TaskSpec, options: TaskOptions) -> None:
        self.spec = spec
        self.options = options
        self.retries = options.retries
        self.unresolved = 0
        self.submitted = 0.0
        self.number = 0


class ActorCalls:
    """The clients of all actors that this process knows, by actor and by connection."""

    def __init__(self, core: CoreWorker) -> None:
        self._core = core
        self._clients: dict[bytes, ActorClient] = {}
        self._connected: dict[Connection, ActorClient] = {}
        peers = core.peers
        peers.handlers[ActorState] = self._on_state
        peers.on_closed.append(self._on_closed)

    def client(self, actor_id: bytes) -> ActorClient:
        """The client of an actor, made when it is new here."""
        client = self._clients.get(actor_id)
        if client is None:
            client = self._clients[actor_id] = ActorClient(self._core, self, actor_id)
        return client

    def forget(self, actor_id: bytes) -> None:
        """No handle of the actor is left here, and so no call without a reply."""
        self._clients.pop(actor_id, None)

    def never_made(self, actor_id: bytes, cause: Cause) -> None:
        """An actor of this process cannot be registered: its calls fail."""
        self._end(actor_id, cause)

    def _end(self, actor_id: bytes, cause: Cause) -> None:
        """For this process, the actor is dead from now on."""
        dead = ActorState(actor_id, 1 << 29, "DEAD", None, cause)
        self.client(actor_id).on_state(dead, at_once=True)

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        """End an actor; for this process it is dead at once when it does not restart."""
        core = self._core

        def act() -> None:
            core.peers.raylet.send(KillActor(actor_id, _KILLED, no_restart))
            if no_restart:
                self._end(actor_id, _KILLED)

        core.reactor.post(act)

    def cancel(self, task_id: bytes) -> Connection | None:
        """Forget a queued call and fail it; the connection of the actor that runs it."""
        for client in self._clients.values():
            if client.knows(task_id):
                return client.cancel(task_id)
        return None

    def knows(self, task_id: bytes) -> bool:
        """Whether that is an unfinished call of this process; from any thread."""
        return any(client.knows(task_id) for client in list(self._clients.values()))

    def any_unfinished(self) -> bool:
        """Whether a call of this process has no reply yet."""
        return any(True for client in self._clients.values() for _ in client.unfinished())

    def children(self, parent: bytes) -> list[bytes]:
        """The unfinished calls that a task of this process made."""
        return [
            call.spec.task_id
            for client in self._clients.values()
            for call in client.unfinished()
            if call.spec.parent == parent
        ]

    def check_room(self, actor_id: bytes, limit: int) -> None:
        """Raise if the actor has ``limit`` calls of this process without a reply; any thread.

        Raises:
            PendingCallsLimitExceeded: it has.
        """
        client = self._clients.get(actor_id)
        pending = client.pending() if client is not None else 0
        pending += self._core.new_calls(actor_id)
        if pending >= limit:
            raise PendingCallsLimitExceeded(
                f"The call could not be submitted to the actor {actor_id.hex()} because more than "
                f"{limit} tasks are queued on the actor. This limit can be adjusted with the "
                "`max_pending_calls` actor option; or wait for some of the calls first."
            )

    def running(self) -> Iterator[TaskSpec]:
        """The first call that each actor has been sent and not answered."""
        for client in self._clients.values():
            call = client.first_in_flight()
            if call is not None:
                yield call.spec

    def unfinished(self) -> Iterator[tuple[ActorCall, bool]]:
        """The calls that have no reply yet, and whether each was sent to its actor."""
        for client in self._clients.values():
            yield from client.calls()

    def fail_all(self, error: Exception) -> None:
        """Give all calls up."""
        for client in self._clients.values():
            client.fail_all(error)

    def connected(self, connection: Connection, client: ActorClient) -> None:
        """That connection leads to the actor."""
        self._connected[connection] = client

    def on_done(self, connection: Connection, worker_id: bytes, message: TaskDone) -> None:
        """A reply came from an actor."""
        client = self._connected.get(connection)
        if client is not None:
            client.on_done(connection, worker_id, message)

    def _on_state(self, _peer: Connection, message: ActorState) -> None:
        client = self._clients.get(message.actor_id)
        if client is not None:
            client.on_state(message)
            client.dispatch()

    def _on_closed(self, connection: Connection) -> None:
        client = self._connected.pop(connection, None)
        if client is not None:
            client.on_connection_closed(connection)


class ActorClient:
    """This process's side of one actor.

    A restarted actor may live before the end of its former process is heard of, so calls without a
    reply are kept by the connection over which they were sent.
    """

    def __init__(self, core: CoreWorker, calls: ActorCalls, actor_id: bytes) -> None:
        self._core = core
        self._calls = calls
        self._actor_id = actor_id
        self._queue: deque[ActorCall] = deque()
        self._in_flight: dict[Connection, dict[bytes, ActorCall]] = {}
        self._connection: Connection | None = None
        self._version = -1
        self._death_cause: Cause | None = None
        self._lost: list[ActorCall] = []
        self._watching = False
        self._restarting = False
        self._submitted = 0
        self._may_overtake = False  # a queued call that could be sent may be behind one that cannot

    def submit(self, call: ActorCall) -> None:
        """Take a call; its dependencies may still be incomplete."""
        if self._death_cause is not None:
            self._fail_dead(call, self._death_cause)
            return
        self._may_overtake |= call.options.out_of_order and bool(self._queue)
        self._submitted += 1
        call.number = self._submitted
        self._queue.append(call)
        self._watch()

    def _watch(self) -> None:
        if not self._watching and self._death_cause is None:
            self._watching = True
            self._core.peers.raylet.send(WatchActor(self._actor_id, self._version))

    def resolved(self, call: ActorCall) -> None:
        """The last dependency of a call that waits is complete."""
        queue = self._queue
        if self._restarting or not call.options.out_of_order or (queue and queue[0] is call):
            self.dispatch()
        elif self._connection is not None and call in queue:  # else it was cancelled, or will do
            queue.remove(call)
            self._send(self._connection, call)

    def dispatch(self) -> None:
        """Send the calls at the head of the queue whose dependencies are complete.

        Calls that may run out of order do not wait for others' dependencies.
        """
        connection = self._connection
        if connection is None:
            if self._restarting:
                self._refuse()
            return
        queue = self._queue
        while queue and not queue[0].unresolved:
            self._send(connection, queue.popleft())
        if queue and self._may_overtake:
            ready = [c for c in queue if c.options.out_of_order and not c.unresolved]
            for call in ready:
                queue.remove(call)
                self._send(connection, call)
        self._may_overtake = False

    def _refuse(self) -> None:
        """The actor is being restarted: calls that would be sent, and may not be repeated, fail."""
        waiting: deque[ActorCall] = deque()
        refused: list[ActorCall] = []
        behind = False
        for call in self._queue:
            behind |= bool(call.unresolved)
            may_go = not call.unresolved and (call.options.out_of_order or not behind)
            (refused if may_go and call.options.retries == 0 else waiting).append(call)
        self._queue = waiting
        for call in refused:
            self._fail_lost(call.spec, executed=False)

    def _send(self, connection: Connection, call: ActorCall) -> None:
        try:
            connection.send(PushTask(call.spec))
        except UnsendableError as error:
            self._core.results.fail(call.spec, error)
        else:
            self._in_flight.setdefault(connection, {})[call.spec.task_id] = call

    def unfinished(self) -> list[ActorCall]:
        """The calls without a reply."""
        return [*self._sent(), *self._queue]

    def _sent(self) -> Iterator[ActorCall]:
        for calls in self._in_flight.values():
            yield from calls.values()

    def calls(self) -> Iterator[tuple[ActorCall, bool]]:
        """The calls without a reply, and whether each was sent."""
        for call in self._sent():
            yield call, True
        for call in self._queue:
            yield call, False

    def pending(self) -> int:
        """How many calls have no reply."""
        return len(self._queue) + sum(len(calls) for calls in self._in_flight.values())

    def knows(self, task_id: bytes) -> bool:
        """Whether that call waits here or is with the actor."""
        return any(task_id in calls for calls in self._in_flight.values()) or any(
            call.spec.task_id == task_id for call in self._queue
        )

    def cancel(self, task_id: bytes) -> Connection | None:
        """Fail a call that still waits; the connection for one that is with the actor."""
        for connection, calls in self._in_flight.items():
            if task_id in calls:
                return connection
        for call in self._queue:
            if call.spec.task_id == task_id:
                self._queue.remove(call)
                self._core.results.fail_cancelled(call.spec)
                break
        return None

    def first_in_flight(self) -> ActorCall | None:
        """The oldest call that the actor has not answered."""
        return next(self._sent(), None)

    def on_state(self, state: ActorState, *, at_once: bool = False) -> None:
        """News of the actor from the raylet.

        News of its death may overtake the replies that it sent before, so calls in flight fail
        when their connection closes, or ``LAST_REPLIES_S`` later, unless ``at_once``.
        """
        self._watching = False
        if state.version <= self._version:
            self._watch()
            return
        self._version = state.version
        lost, self._lost = self._lost, []
        for call in lost:
            if state.state == "DEAD":
                self._fail_dead(call, state.cause or _ENDED)
            else:
                self._fail_lost(call.spec)
        if state.state == "DEAD":
            self._death_cause = state.cause or _ENDED
            self._retire(0.0 if at_once else LAST_REPLIES_S)
            while self._queue:
                self._fail_dead(self._queue.popleft(), self._death_cause)
            return
        self._restarting = state.state == "RESTARTING"
        if self._restarting:
            self._retire(LAST_REPLIES_S)
            self._connection = None
        if state.state == "ALIVE" and state.address is not None:
            connection = self._core.peers.connect(state.address)
            if connection is not self._connection:
                self._retire(LAST_REPLIES_S)
                self._connection = connection
                self._may_overtake = True
                self._calls.connected(connection, self)
        self._watch()

    def _retire(self, seconds: float) -> None:
        """The actor's process so far is dead: what it has sent still counts for so long."""
        connection = self._connection
        if connection is None:
            return
        if seconds and self._in_flight.get(connection):
            self._core.reactor.call_later(seconds, lambda: self.on_connection_closed(connection))
        else:
            self.on_connection_closed(connection)

    def on_done(self, connection: Connection, worker_id: bytes, message: TaskDone) -> None:
        """A reply came."""
        call = self._in_flight.get(connection, {}).pop(message.task_id, None)
        if call is None:
            return
        if (
            message.retry
            and call.retries != 0
            and self._core.results.is_retriable(message, call.options)
        ):
            self._core.results.forget_attempt(call.spec, worker_id, message)
            self._again(call)
            self._go_first([call])
            self.dispatch()
        else:
            self._core.results.finish(call, worker_id, message)

    def _again(self, call: ActorCall) -> None:
        call.retries -= call.retries > 0
        call.spec.attempt += 1

    def _go_first(self, again: list[ActorCall]) -> None:
        """Queue calls once more, in front of those that were submitted after them."""
        again.sort(key=_number)
        queue = self._queue
        if not queue or not again or again[-1].number < queue[0].number:
            queue.extendleft(reversed(again))
        else:
            self._queue = deque(sorted([*again, *queue], key=_number))
        self._may_overtake = True

    def on_connection_closed(self, connection: Connection) -> None:
        """A process of the actor went: its calls are made again, or fail."""
        is_current = connection is self._connection
        if is_current:
            self._connection = None
        again: list[ActorCall] = []
        for call in self._in_flight.pop(connection, {}).values():
            if self._death_cause is not None:
                self._fail_dead(call, self._death_cause)
            elif call.retries != 0:
                self._again(call)
                again.append(call)
            elif is_current and not self._restarting:
                self._lost.append(call)  # until it is known what becomes of the actor
            else:
                self._fail_lost(call.spec)
        self._go_first(again)
        self._watch()
        if is_current and not connection.peer_ended:
            self._core.reactor.call_later(_ASK_AGAIN_S, self._ask_again)
        self.dispatch()

    def _ask_again(self) -> None:
        """The actor was out of reach and lives, so there may be no news of it: ask where it is."""
        if self._connection is None and self._death_cause is None:
            self._version -= 1
            self._watching = False
            self._watch()

    def fail_all(self, error: Exception) -> None:
        """Give all calls up."""
        calls = [*self._lost, *self.unfinished()]
        for waiting in (self._lost, self._in_flight, self._queue):
            waiting.clear()
        for call in calls:
            self._core.results.fail(call.spec, error)

    def _fail_dead(self, call: ActorCall, cause: Cause) -> None:
        """Fail a call of a dead actor."""
        error = call_error(cause, self._actor_id.hex(), call.spec.name)
        self._core.results.fail(call.spec, error)

    def _fail_lost(self, spec: TaskSpec, executed: bool = True) -> None:
        """Fail a call of an actor that is being restarted."""
        actor_id = self._actor_id.hex()
        if executed:
            error = ActorUnavailableError(
                actor_id,
                f"The actor {actor_id} is unavailable: its process ended during {spec.name}, and "
                "it is being restarted. The task may or may not have been executed on the actor. "
                "Set max_task_retries to repeat such calls.",
            )
        else:
            error = ActorUnavailableError(
                actor_id,
                f"The actor {actor_id} is unavailable: it is being restarted, and {spec.name} was "
                "not executed. Set max_task_retries to have such calls wait for it.",
            )
        self._core.results.fail(spec, error)


def _number(call: ActorCall) -> int:
    return call.number
