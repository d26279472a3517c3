"""What the processes that run the tasks of a cell do, seen from outside where that is possible.

Each is looked at by its raylet (`raylet.watch.profiler`), all at once, for so many seconds.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nbray.core_worker.current import joined_core
from nbray.exceptions import NbrayError
from nbray.state import queries as q
from nbray.state.lists import list_tasks

_AT_ONCE = 32
_MORE_S = 20.0
_RUNS = "RUNNING"


@dataclass(frozen=True)
class ProcessProfile:
    """What was seen of one process.

    Attributes:
        pid: of the process.
        how: by what it was looked at.
        counts: of stacks, which are frames joined by ";"; with memory bytes.
        error: why there are none.
    """

    pid: int
    how: str
    counts: dict[str, int]
    error: str = ""


def profile_origin(origin: int, seconds: float, memory: bool) -> list[ProcessProfile]:
    """Look at the processes that now run tasks of ``origin``; of at most 32 of them."""
    core = joined_core()
    job = core.job.job_id.hex()
    rows = list_tasks(
        filters=[("origin", "=", origin), ("job_id", "=", job), ("state", "=", _RUNS)],
        limit=10_000, detail=True, raise_on_missing_output=False,
    )  # fmt: skip
    found = {
        (row.node_id, row.worker_id): row.worker_pid or 0
        for row in rows
        if row.node_id and row.worker_id
    }
    processes = list(found.items())[:_AT_ONCE]

    def look(process: tuple[tuple[str, str], int]) -> ProcessProfile:
        (node, worker), pid = process
        query = q.profile(node, worker, min(seconds, 60.0), memory)
        try:
            reply = query.read(core.peers.gcs_call(query.method, query.body, seconds + _MORE_S))
        except NbrayError as problem:
            return ProcessProfile(pid, "", {}, str(problem))
        return ProcessProfile(pid, reply.how, reply.counts, reply.error)

    if not processes:
        return []
    with ThreadPoolExecutor(len(processes), "nbray-profile") as pool:
        return list(pool.map(look, processes))
