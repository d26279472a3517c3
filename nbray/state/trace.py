"""Tasks as a trace for chrome://tracing, Perfetto and speedscope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbray.state.rows import TaskState

MOST_TASKS = 100_000
"""So many are asked for."""
_SAME_MS = 0.05  # clocks of one worker are read twice in a task: so much is no overlap
_COLOURS = {"RUNNING": "thread_state_running", "FAILED": "terrible"}


def chrome_trace(rows: Sequence[TaskState], now_ms: float) -> list[dict[str, Any]]:
    """The events of a trace: a process for each node, a thread for each worker, times in us.

    Tasks of one worker that overlap (of an actor with several threads or coroutines) get rows of
    their own. What still runs ends at ``now_ms``.
    """
    events: list[dict[str, Any]] = []
    nodes: dict[str, int] = {}
    lanes: dict[str, list[float]] = {}
    threads: dict[tuple[str, int], int] = {}
    ran = [row for row in rows if row.start_time_ms and row.node_id and row.worker_id]
    for row in sorted(ran, key=lambda row: row.start_time_ms or 0.0):
        assert row.node_id is not None and row.worker_id is not None
        start = row.start_time_ms or 0.0
        end = row.end_time_ms or max(start, now_ms)
        if row.node_id not in nodes:
            nodes[row.node_id] = len(nodes) + 1
            events.append(_named("process_name", nodes[row.node_id], 0, f"node {row.node_id[:8]}"))
        pid = nodes[row.node_id]
        ends = lanes.setdefault(row.worker_id, [])
        free = (number for number, busy in enumerate(ends) if busy <= start + _SAME_MS)
        # Others than an actor's run one after the other, whatever the clock was set to between.
        lane = 0 if row.type == "NORMAL_TASK" and ends else next(free, len(ends))
        ends[lane : lane + 1] = [end]
        key = (row.worker_id, lane)
        if key not in threads:
            threads[key] = len(threads) + 1
            name = f"worker pid {row.worker_pid}" + (f" ({lane + 1})" if lane else "")
            events.append(_named("thread_name", pid, threads[key], name))
        event = {
            "cat": "actor" if row.actor_id else "task",
            "name": row.name,
            "pid": pid,
            "tid": threads[key],
            "ts": start * 1000,
            "dur": (end - start) * 1000,
            "ph": "X",
            "args": {
                "task_id": row.task_id,
                "job_id": row.job_id,
                "attempt_number": row.attempt_number,
                "func_or_class_name": row.func_or_class_name,
                "actor_id": row.actor_id,
                "state": row.state,
                "worker_id": row.worker_id,
                "node_id": row.node_id,
            },
        }
        if row.state in _COLOURS:
            event["cname"] = _COLOURS[row.state]
        events.append(event)
    return events


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"cat": "__metadata", "name": what, "ph": "M", "pid": pid, "tid": tid, "ts": 0,
            "args": {"name": name}}  # fmt: skip
