"""When workers are given back to their raylets. Pure.

An idle one is kept for `lease_idle_s`, for tasks that come soon. Where others wait for it, which
its raylet says with the grant or later, it is *wanted*: it goes back as soon as it is idle and
nothing waits in its queue, and so do the queue's lease requests, which would pass a worker through
here for nothing. A *leaving* one gets no more tasks at all.
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core_worker.decisions import Decisions, ToRaylet, WakeAfter
from nbray.core_worker.submit.queues import TaskQueue
from nbray.core_worker.task_options import QueueKey
from nbray.core_worker.tasks import HasLeases, Lease
from nbray.wire.messages import CancelLeaseRequest, ReturnLease
from nbray.wire.strategies import ANYWHERE


class Returning:
    """Gives workers back.

    Args:
        queues: all queues; those that nothing keeps are removed.
        idle_s: how long an idle worker is kept that nobody else waits for.
        answered: forgets a lease request.
    """

    def __init__(
        self,
        decisions: Decisions,
        queues: dict[QueueKey, TaskQueue],
        idle_s: float,
        answered: Callable[[int], object],
    ) -> None:
        self._decisions = decisions
        self._queues = queues
        self._idle_s = idle_s
        self._answered = answered
        self._checking_idle = False
        self._settling: set[HasLeases] = set()

    # --- one --------------------

    def give_back(self, node_id: bytes, message: ReturnLease) -> None:
        """Tell a raylet of a worker that is not used any more."""
        if node_id:  # else its raylet has ended
            self._decisions.append(ToRaylet(node_id, message))

    def drop(self, lease: Lease) -> None:
        """Give back a lease that is used no more, as whole as it is."""
        lease.queue.leases.remove(lease)
        self.give_back(lease.raylet, ReturnLease(lease.lease_id, worn=lease.worn))

    def idle(self, lease: Lease) -> bool:
        """A worker has answered for all that it got; whether it has gone back for that."""
        if lease not in lease.queue.leases:
            return False
        if lease.leaving or lease.queue.once:
            self.drop(lease)
            return True
        if lease.wanted:
            self._settling.add(lease.queue)
        return False

    # --- those that others wait for --------------------

    def wanted(self, node_id: bytes) -> None:
        """Others wait for what this process has of a node."""
        for queue in self._queues.values():
            for lease in queue.leases:
                if lease.raylet == node_id:
                    lease.wanted = True
                    self._settling.add(queue)

    def came(self, lease: Lease) -> None:
        """A worker was granted; what waited for it may go to another that is idle by then."""
        if lease.wanted:
            self._settling.add(lease.queue)

    def settle(self) -> None:
        """Give back what others wait for and nothing here needs; all was pushed that waited.

        What waits still is for those that were passed by, as there are fewer cores.
        """
        if not self._settling:
            return
        settling, self._settling = self._settling, set()
        for queue in settling:
            if not queue.tasks:
                self._cancel_requests(queue)
            for lease in [x for x in queue.leases if x.wanted and not x.in_flight]:
                self.drop(lease)

    def _cancel_requests(self, queue: HasLeases) -> None:
        for request_id, raylet in list(queue.requests.items()):
            self._answered(request_id)
            self._decisions.append(ToRaylet(raylet, CancelLeaseRequest(request_id)))

    # --- those that nobody waits for --------------------

    def check_later(self) -> None:
        """There are workers, which may become idle."""
        if not self._checking_idle:
            self._checking_idle = True
            self._decisions.append(WakeAfter(self._idle_s, self._check))

    def _check(self, now: float) -> None:
        self._checking_idle = False
        self.return_idle(now, self._idle_s * 0.9)
        if any(queue.leases or queue.requests for queue in self._queues.values()):
            self.check_later()

    def return_idle(self, now: float, idle_s: float = 0.0) -> None:
        """Give back the workers that have had nothing to do for so many seconds."""
        until = now - idle_s
        for queue in list(self._queues.values()):
            if queue.tasks:
                continue
            self._cancel_requests(queue)
            for lease in list(queue.leases):
                if not lease.in_flight and lease.idle_since <= until:
                    self.drop(lease)
            if not queue.leases and queue.shape.strategy is not ANYWHERE:
                del self._queues[queue.key]
