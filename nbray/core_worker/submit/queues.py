"""Where tasks wait for workers, with the leases that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from nbray.common.thread_count import threads_for
from nbray.core_worker.submit.line import Arrival, Line
from nbray.core_worker.task_options import QueueKey
from nbray.core_worker.tasks import Lease, PendingTask
from nbray.wire.messages import RequestLease
from nbray.wire.records import Dependency, JobConfig
from nbray.wire.strategies import Spread

WINDOW_S = 0.005
_MAX_WINDOW = 512


class TaskQueue:
    """What waits and the leases of one shape, environment, and node where arguments lie, if any.

    Attributes:
        requests: the lease requests that wait, each with the node whose raylet has it.
        seconds: how long a task runs, about; negative before one has.
        watched: it is looked before long whether its workers run long tasks.
    """

    __slots__ = (
        "key", "leases", "near", "once", "requests", "runtime_env", "seconds", "shape", "tasks",
        "threads", "watched",
    )  # fmt: skip

    def __init__(self, key: QueueKey) -> None:
        self.key = key
        self.shape, self.runtime_env, self.near = key
        self.threads = threads_for(dict(self.shape.resources))
        self.once = isinstance(self.shape.strategy, Spread)
        self.tasks = Line()
        self.leases: list[Lease] = []
        self.requests: dict[int, bytes] = {}
        self.seconds = -1.0
        self.watched = False

    def window(self) -> int:
        """How many tasks a worker may have at once."""
        if self.seconds < 0 or self.once:
            return 1
        return max(1, min(_MAX_WINDOW, int(WINDOW_S / max(self.seconds, 1e-6))))

    def workers(self, leases: list[Lease], cores: int) -> int:
        """For how many workers what waits, and what these leases have, is work.

        Very short ones are done sooner by the cores that there are, with all they get at once, than
        by many workers that wake for a few each: tasks without CPUs have as many as they ask for.
        """
        count, window = len(self.tasks), self.window()
        for lease in leases:
            count += len(lease.in_flight)
        return count if window == 1 else max(min(count, cores), -(-count // window))

    def ran(self, seconds: float) -> None:
        """A task of it has run for so long."""
        if self.seconds < 0:
            self.seconds = seconds
        else:
            self.seconds += 0.2 * (seconds - self.seconds)

    def request(self, number: int, job: JobConfig, spilled: bool, backlog: int = 1) -> RequestLease:
        """A lease request for its tasks; ``spilled``: another raylet has sent it on."""
        return RequestLease(
            number, job, dict(self.shape.resources), backlog, spilled,
            self.tasks.may_repeat_next(), self.runtime_env, self.shape.strategy,
            self.shape.selector, self.near, self.tasks.origin_at(len(self.requests)),
        )  # fmt: skip


class Queues(dict[QueueKey, TaskQueue]):
    """The queues of a process, each of which begins when it is looked for."""

    def __missing__(self, key: QueueKey) -> TaskQueue:
        queue = self[key] = TaskQueue(key)
        return queue

    def find(self, first: bytes) -> PendingTask | None:
        """The task in one of them that makes this object first."""
        for queue in self.values():
            task = queue.tasks.find(first)
            if task is not None:
                return task
        return None

    def new(self) -> Iterator[tuple[bytes, Arrival]]:
        """What stands in them by its parts alone (`Line.new`)."""
        return chain.from_iterable(queue.tasks.new() for queue in self.values())

    def withdraw(self, wanted: Callable[[PendingTask], bool]) -> list[PendingTask]:
        """See `Line.withdraw`."""
        return [task for queue in self.values() for task in queue.tasks.withdraw(wanted)]


def node_of_arguments(dependencies: Iterable[Dependency], here: bytes) -> bytes:
    """The other node that has most bytes of the large arguments; empty if it is ``here``."""
    held: dict[bytes, int] = {}
    for dependency in dependencies:
        stored = dependency.value.stored if dependency.value is not None else None
        for node_id in stored.node_ids if stored is not None else ():
            held[node_id] = held.get(node_id, 0) + stored.size  # type: ignore[union-attr]
    if not held or held.get(here, 0) == max(held.values()):
        return b""
    return max(held, key=lambda node_id: (held[node_id], node_id))
