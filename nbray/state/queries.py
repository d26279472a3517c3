"""The questions of the state API: a method of the GCS, and how its answer becomes rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from nbray.common.ids import TaskID, is_creation_id
from nbray.common.resources import from_units
from nbray.state import rows as r
from nbray.state.deaths import death_of
from nbray.state.selectors import fallback_strategy, label_selector
from nbray.wire import state_messages as s
from nbray.wire.gcs_messages import Empty, GroupRow, Groups, NamedGroup, Nodes
from nbray.wire.records import NodeInfo, TaskEvent

T = TypeVar("T")
_SILENT_S = 2.0
REQUEST = msgspec.msgpack.encode(Empty())


@dataclass(frozen=True)
class Query(Generic[T]):
    """One question, with its encoded request; ``read`` makes rows of the encoded reply."""

    method: str
    reply: Any
    convert: Callable[[Any], T]
    body: bytes = REQUEST

    def read(self, body: bytes) -> T:
        """The rows of a reply."""
        return self.convert(msgspec.msgpack.decode(body, type=self.reply))


def _nodes(reply: Nodes) -> list[r.NodeState]:
    """The living first, as in all of these."""
    rows = [
        r.NodeState(
            row.node_id.hex(), row.host, row.is_head, "ALIVE" if row.alive else "DEAD",
            _node_message(row), row.host,
            from_units(row.total), row.labels, int(row.started * 1000), int(row.ended * 1000),
            resources_available=from_units(row.available) if row.alive else {},
            stats=row.stats if row.alive else {}, hostname=row.hostname,
            kept_by=row.kept_by if row.alive else [], idle_s=row.idle_s if row.alive else 0.0,
            received_from={node.hex(): n for node, n in row.received_from.items()},
        )
        for row in reply.nodes
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.state != "ALIVE")


def _node_message(row: NodeInfo) -> str | None:
    if not row.alive:
        drained = row.draining and f"drained: {row.draining}"
        return row.death_cause or drained or "it left the cluster"
    if row.draining:
        return f"draining: {row.draining}"
    return f"silent for {row.silent_s:.0f} s" if row.silent_s > _SILENT_S else None


def _workers(reply: s.Workers) -> tuple[list[r.WorkerState], list[str]]:
    """The rows, and the nodes that did not answer."""
    rows = [
        r.WorkerState(
            row.worker_id.hex(), not row.ended, "DRIVER" if row.state == "DRIVER" else "WORKER",
            row.exit_type or None, row.node_id.hex(), row.host, row.pid, row.state,
            row.job_id.hex() or None, row.actor_id.hex() or None, row.rss_bytes,
            exit_detail=row.exit_detail or None, start_time_ms=int(row.started * 1000),
            end_time_ms=int(row.ended * 1000), cpu_percent=row.cpu_percent,
        )
        for row in reply.rows
    ]  # fmt: skip
    return rows, [node_id.hex() for node_id in reply.unreachable]


def _actors(reply: s.Actors) -> list[r.ActorState]:
    rows = [
        r.ActorState(
            row.actor_id.hex(), row.class_name,
            "PENDING_CREATION" if row.state == "PENDING" else row.state,
            row.job_id.hex(), row.name, row.node_id.hex() or None, row.pid or None,
            row.namespace, row.runtime_env or "{}", required_resources=from_units(row.resources),
            placement_group_id=row.group_id.hex() or None, repr_name=row.shown,
            death_cause=death_of(row), is_detached=row.detached,
            num_restarts=row.restarts, worker_id=row.worker_id.hex() or None,
            start_time_ms=int(row.started * 1000) or None, pending_reason=row.waits_for or None,
            label_selector=label_selector(row.selector),
            fallback_strategy=fallback_strategy(row.selector) if row.selector[1:] else None,
        )
        for row in reply.rows
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.state == "DEAD")


def _groups(reply: Groups) -> list[r.PlacementGroupState]:
    rows = [
        r.PlacementGroupState(
            life.spec.group_id.hex(), life.spec.name, life.spec.job.job_id.hex(), life.state,
            life.spec.strategy, life.reasons,
            [
                {
                    "bundle_id": {
                        "placement_group_id": life.spec.group_id.hex(), "bundle_index": index,
                    },
                    "unit_resources": from_units(bundle.resources),
                    "node_id": life.placed[index].hex() if index in life.placed else "",
                }
                for index, bundle in enumerate(life.spec.bundles)
            ],
            life.spec.detached,
            group_stats(life, "us", 1e6),
        )
        for life in reply.rows
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.state == "REMOVED")


def group_stats(life: GroupRow, unit: str, per_second: float) -> dict[str, Any]:
    """How a group came to its place, or did not yet, with Ray's keys in one of its units."""
    return {
        f"end_to_end_creation_latency_{unit}": life.placed_s * per_second,
        f"scheduling_latency_{unit}": life.chosen_s * per_second,
        "scheduling_attempt": life.attempts,
        "highest_retry_delay_ms": 0.0,
        "scheduling_state": life.stage,
    }


def _jobs(reply: s.Jobs) -> list[r.JobState]:
    return [
        r.JobState(
            "DRIVER", row.job_id.hex(), None,
            r.DriverInfo(row.job_id.hex(), row.host, str(row.pid)), row.state, row.entrypoint,
            namespace=row.namespace, start_time=int(row.started * 1000),
            end_time=int(row.ended * 1000) or None, metadata=row.metadata,
            driver_node_id=row.node_id.hex(),
        )
        for row in reply.rows
    ]  # fmt: skip


def _demand(reply: s.Demand) -> list[r.DemandState]:
    return [
        r.DemandState(
            from_units(row.resources), row.count, row.waiting_s,
            "actor" if row.for_actor else "task", row.node_id.hex() or None, row.reason or None,
            list(row.lacking),
        )
        for row in reply.rows
    ]  # fmt: skip


def _failures(reply: s.Failures) -> list[r.FailureState]:
    return [
        r.FailureState(
            row.kind, row.entity_id.hex(), row.node_id.hex() or None, row.name, row.cause,
            int(row.when * 1000),
        )
        for row in reply.rows
    ]  # fmt: skip


def _totals(reply: s.TaskTotals) -> r.TaskTotals:
    functions = [
        r.FunctionCount(row.name, row.finished, row.failed, row.cancelled)
        for row in reply.functions
    ]
    return r.TaskTotals(reply.finished, reply.failed, reply.cancelled, functions)


def _dashboard(reply: s.DashboardAddress) -> tuple[str, str]:
    return reply.url, reply.cluster


_RANK = {"FINISHED": 3, "FAILED": 3, "RUNNING": 2, "SUBMITTED_TO_WORKER": 1}
_IN_THE_ACTORS_QUEUE = "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"


def _tasks(reply: s.Tasks) -> r.TaskList:
    """One row for each attempt: the furthest in its life, completed by its owner's word.

    A call that was sent to an actor which tells of others that run there waits in its queue.
    """
    found: dict[tuple[bytes, int], tuple[int, TaskEvent]] = {}
    owned: dict[tuple[bytes, int], TaskEvent] = {}
    for number, event in reply.rows:
        key = (event.task_id, event.attempt)
        if event.created:
            owned[key] = event
            if not event.state:
                continue
        known = found.get(key)
        if known is None or _RANK.get(event.state, 0) > _RANK.get(known[1].state, 0):
            found[key] = (number, event)
    busy = {event.actor_id for _number, event in found.values() if event.state == "RUNNING"}
    for _number, event in found.values():
        if event.state == "SUBMITTED_TO_WORKER" and event.actor_id and event.actor_id in busy:
            event.state = _IN_THE_ACTORS_QUEUE
    rows = [
        _task(event, reply.sources[number], owned.get(key))
        for key, (number, event) in found.items()
    ]
    rows.sort(key=lambda row: row.start_time_ms or row.creation_time_ms or row.end_time_ms or 0)
    missing = _missing(reply.unreachable)
    return r.TaskList(rows, reply.unfinished, reply.dropped, missing, reply.silent)


def _missing(unreachable: list[bytes], silent: int = 0) -> list[str]:
    missing = [f"node {node_id.hex()[:8]} did not answer" for node_id in unreachable]
    if silent:
        missing.append(f"{silent} process(es) did not answer")
    return missing


def _task(event: TaskEvent, source: s.TaskSource, owned: TaskEvent | None) -> r.TaskState:
    is_creation = is_creation_id(event.task_id)
    kind = "ACTOR_TASK" if event.actor_id else "NORMAL_TASK"
    ran = event.started > 0  # else it is the owner that told, not the worker
    owned = owned or event
    moments = (
        ("PENDING_ARGS_AVAIL", owned.created),
        ("RUNNING", event.started),
        (event.state, event.ended),
    )
    return r.TaskState(
        event.task_id.hex(), event.attempt, event.shown or event.name, event.state,
        event.job_id.hex(), event.actor_id.hex() or None,
        "ACTOR_CREATION_TASK" if is_creation else kind, event.function or event.name,
        event.parent.hex() or None, source.node_id.hex() if ran else None,
        source.worker_id.hex() if ran else None, source.pid if ran else None,
        event.error_type or None, event.origin, language="PYTHON",
        required_resources=from_units(owned.resources) or None,
        events=[{"state": name, "created_ms": when * 1000} for name, when in moments if when],
        creation_time_ms=int(owned.created * 1000) or None,
        start_time_ms=event.started * 1000 or None, end_time_ms=event.ended * 1000 or None,
        error_message=event.error_text or None, task_log_info=_log_info(event, source),
        depends_on=_producers(event.needs), depends_on_more=event.needs_more,
        label_selector=label_selector(owned.selector) if owned.created else None,
        fallback_strategy=fallback_strategy(owned.selector) if owned.created else None,
    )  # fmt: skip


def _producers(needs: bytes) -> list[str]:
    size = TaskID.SIZE
    return [needs[at : at + size].hex() for at in range(0, len(needs), size)]


def _log_info(event: TaskEvent, source: s.TaskSource) -> dict[str, Any] | None:
    """Where in its worker's logs a task that failed has ended."""
    if not (event.out_end or event.err_end):
        return None
    name = f"worker-{source.worker_id.hex()[:12]}"
    return {
        "stdout_file": f"{name}.out", "stdout_end": event.out_end,
        "stderr_file": f"{name}.err", "stderr_end": event.err_end,
    }  # fmt: skip


def tasks(
    limit: int, job_id: bytes = b"", origin: int = 0, since: float = 0.0, of: bytes = b""
) -> Query[r.TaskList]:
    """The tasks of a job and an origin, if they are given, unfinished or ended after ``since``.

    Args:
        limit: at most so many unfinished ones of each process, ended ones of each node.
        since: seconds since the epoch.
        of: the beginning of a task's id, for it and those that it has submitted; the whole id for
            those that take its results, too; or an actor's id, for its calls.
    """
    request = s.TasksRequest(limit, job_id, origin, since, of)
    return Query("ListTasks", s.Tasks, _tasks, msgspec.msgpack.encode(request))


def _objects(reply: s.Objects) -> r.ObjectList:
    rows: list[r.ObjectState] = []
    holders: list[r.HolderState] = []
    for holder in reply.holders:
        kind = "DRIVER" if holder.is_driver else "WORKER"
        worker_id, node_id = holder.worker_id.hex(), holder.node_id.hex()
        holders.append(
            r.HolderState(
                worker_id, node_id, holder.host, holder.pid, kind, holder.owned, holder.owned_bytes
            )
        )
        rows += [
            r.ObjectState(
                row.object_id.hex(), row.size, row.task_status, row.reference_type, row.call_site,
                kind, holder.pid, holder.host, 0, row.owned, row.local_refs, row.borrowers,
                [where.hex() for where in row.node_ids], worker_id, node_id, row.kind,
            )
            for row in holder.rows
        ]  # fmt: skip
    rows.sort(key=lambda row: -row.object_size)
    return r.ObjectList(rows, holders, _missing(reply.unreachable, reply.silent))


def objects(limit: int) -> Query[r.ObjectList]:
    """What processes own and borrow, the ``limit`` largest of each."""
    body = msgspec.msgpack.encode(s.ObjectsRequest(limit))
    return Query("ListObjects", s.Objects, _objects, body)


def logs(node_id: str, pattern: str) -> Query[dict[str, int]]:
    """The sizes of a node's logs by name, as far as the names match."""
    body = msgspec.msgpack.encode(s.LogsRequest(bytes.fromhex(node_id), pattern))
    return Query("ListLogs", s.LogFiles, _sizes, body)


def _sizes(reply: s.LogFiles) -> dict[str, int]:
    return reply.sizes


def log(node_id: str, name: str, offset: int, lines: int) -> Query[s.LogPart]:
    """What a log has after ``offset``, or if that is negative its last ``lines`` lines."""
    request = s.ReadLog(bytes.fromhex(node_id), name, offset, lines)
    return Query("ReadLog", s.LogPart, _part, msgspec.msgpack.encode(request))


def _part(reply: s.LogPart) -> s.LogPart:
    return reply


def profile(
    node_id: str, worker_id: str, seconds: float, memory: bool, working: bool = False
) -> Query[s.Profile]:
    """What a process does: once, or over some seconds; or what it allocates meanwhile.

    Args:
        working: only where the user's code is, in milliseconds, at a small cost.
    """
    node, worker = bytes.fromhex(node_id), bytes.fromhex(worker_id)
    request = s.ProfileRequest(node, worker, seconds, memory, working)
    return Query("Profile", s.Profile, _as_is, msgspec.msgpack.encode(request))


def _as_is(reply: s.Profile) -> s.Profile:
    return reply


def _metrics(reply: s.Metrics) -> list[s.NodeMetrics]:
    return reply.nodes


NODES = Query("ListNodes", Nodes, _nodes)
WORKERS = Query("ListWorkers", s.Workers, _workers)
ACTORS = Query("ListActors", s.Actors, _actors)
JOBS = Query("ListJobs", s.Jobs, _jobs)
PLACEMENT_GROUPS = Query("FindGroups", Groups, _groups, msgspec.msgpack.encode(NamedGroup()))
DEMAND = Query("Demand", s.Demand, _demand)
FAILURES = Query("RecentFailures", s.Failures, _failures)
TASK_TOTALS = Query("TaskTotals", s.TaskTotals, _totals)
DASHBOARD = Query("GetDashboard", s.DashboardAddress, _dashboard)
METRICS = Query("Metrics", s.Metrics, _metrics)
