"""Calls to actors: in the order of submission, over one connection to the actor's process.

Each actor has a client here (`actor_client`), which follows its state by the raylet. As `leasing`,
this decides and does not act.
"""

from __future__ import annotations

from collections.abc import Iterator

from nbray.core_worker.decisions import Connect, Decisions, PushCalls, ToRaylet
from nbray.core_worker.identity import Identity
from nbray.core_worker.submit.actor_client import ActorClient
from nbray.core_worker.submit.leasing import IsRetriable
from nbray.core_worker.tasks import ActorCall
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.messages import ActorState, KillActor, TaskDone, WatchActor
from nbray.wire.records import Address, TaskSpec

_KILLED = Cause(CauseKind.KILLED, "it was killed by `nbray.kill`")
_VERSION_OF_END = 1 << 29


class ActorCalls:
    """The clients of all actors that this process knows. Pure."""

    def __init__(
        self, me: Identity, decisions: Decisions, is_retriable: IsRetriable, epoch: float
    ) -> None:
        """``epoch``: what the time of day was at time 0, in seconds, for stories."""
        self.epoch = epoch
        self._me = me
        self._decisions = decisions
        self._is_retriable = is_retriable
        self._clients: dict[bytes, ActorClient] = {}
        self._at: dict[bytes, ActorClient] = {}

    def client(self, actor_id: bytes) -> ActorClient:
        """The client of an actor, made when it is new here."""
        client = self._clients.get(actor_id)
        if client is None:
            client = self._clients[actor_id] = ActorClient(self, actor_id)
        return client

    def forget(self, actor_id: bytes) -> None:
        """No handle of the actor is left here, and so no call without a reply."""
        self._clients.pop(actor_id, None)

    def end(self, actor_id: bytes, cause: Cause, now: float) -> None:
        """For this process, the actor is dead from now on, or was never made."""
        dead = ActorState(actor_id, _VERSION_OF_END, "DEAD", None, cause)
        self.client(actor_id).told(dead, now, at_once=True)

    def kill(self, actor_id: bytes, no_restart: bool, now: float) -> None:
        """End an actor; for this process it is dead at once when it does not restart."""
        self.to_raylet(KillActor(actor_id, _KILLED, no_restart))
        if no_restart:
            self.end(actor_id, _KILLED, now)

    def knows(self, task_id: bytes) -> bool:
        """Whether that is an unfinished call of this process."""
        return any(client.knows(task_id) for client in self._clients.values())

    def cancel(self, task_id: bytes) -> bytes:
        """Forget a queued call and fail it; the id of the actor's process that has it."""
        for client in self._clients.values():
            if client.knows(task_id):
                return client.cancel(task_id)
        return b""

    def children(self, parent: bytes) -> list[bytes]:
        """The unfinished calls that a task of this process made."""
        return [call.spec.task_id for call in self.unfinished() if call.spec.parent == parent]

    def pending(self, actor_id: bytes) -> int:
        """How many calls of an actor have no reply; from any thread."""
        client = self._clients.get(actor_id)
        return client.pending() if client is not None else 0

    def running(self) -> Iterator[TaskSpec]:
        """The first call that each actor has been sent and not answered."""
        for client in self._clients.values():
            call = client.first_in_flight()
            if call is not None:
                yield call.spec

    def unfinished(self) -> Iterator[ActorCall]:
        """The calls that have no reply yet."""
        for client in self._clients.values():
            yield from client.unfinished()

    def shrink(self) -> None:
        """Give the room of calls back that have ended."""
        for client in self._clients.values():
            client.shrink()

    def fail_all(self, error: Exception) -> None:
        """Give all calls up."""
        for client in self._clients.values():
            client.fail_all(error)

    # --- news --------------------

    def told(self, message: ActorState, now: float) -> None:
        """The raylet has news of an actor."""
        client = self._clients.get(message.actor_id)
        if client is not None:
            client.told(message, now)
            client.dispatch()

    def done(self, worker_id: bytes, message: TaskDone) -> ActorCall | None:
        """A reply came: the call if it has ended, None if it runs again or is unknown."""
        client = self._at.get(worker_id)
        return client.done(worker_id, message) if client is not None else None

    def worker_gone(self, worker_id: bytes, peer_ended: bool, now: float) -> None:
        """A process has ended, or, without ``peer_ended``, is out of reach."""
        client = self._at.pop(worker_id, None)
        if client is not None:
            client.process_gone(worker_id, peer_ended, now)

    def unsendable(self, call: ActorCall, worker_id: bytes, error: Exception) -> None:
        """A call that was to be pushed cannot travel."""
        self.client(call.spec.actor_id).unsendable(call, worker_id, error)

    # --- for the clients --------------------

    def at(self, worker: Address, client: ActorClient) -> None:
        """An actor lives there."""
        self._at[worker.worker_id] = client
        self._decisions.append(Connect(worker))

    def decide(self, decision: object) -> None:
        """Have it carried out."""
        self._decisions.append(decision)

    def push(self, worker: Address, call: ActorCall) -> None:
        """Have a call sent to its actor, together with those that were decided just before it."""
        decisions = self._decisions
        last = decisions[-1] if decisions else None
        if type(last) is PushCalls and last.worker is worker:
            last.calls.append(call)
        else:
            decisions.append(PushCalls(worker, [call]))

    def to_raylet(self, message: WatchActor | KillActor) -> None:
        """Tell the raylet of this node."""
        self._decisions.append(ToRaylet(self._me.address.node_id, message))

    def may_retry(self, call: ActorCall, done: TaskDone) -> bool:
        """Whether a call that was answered so is to be made again."""
        if not done.retry or not call.retries or call.cancelled:
            return False
        return self._is_retriable(done, call.options)
