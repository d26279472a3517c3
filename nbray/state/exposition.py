"""Metrics as Prometheus reads them: its text format, version 0.0.4."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from nbray.state.rows import ActorState, DemandState, NodeState, TaskTotals
from nbray.wire.records import MetricRow
from nbray.wire.state_messages import NodeMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "nbray_"
_EXACT = 1 << 53
_NODE = "node_id"


@dataclass
class _Family:
    """All samples of one name."""

    kind: str
    help: str
    samples: list[str] = field(default_factory=list)


class Exposition:
    """Collects samples; `text` is what Prometheus is answered."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def add(self, kind: str, name: str, help: str, value: float, /, **labels: str) -> None:
        """One sample of a counter or gauge."""
        family = self._family(kind, name, help)
        if family is not None:
            family.samples.append(_sample(name, labels, value))

    def add_row(self, row: MetricRow, node_id: str) -> None:
        """One series of the user's; one whose name another kind of metric has is left out."""
        own = {_NODE, "le"} if row.kind == "histogram" else {_NODE}
        labels = {**_labels(row.tags, own), _NODE: node_id}
        name = _PREFIX + row.name
        if row.kind == "counter" and not name.endswith("_total"):
            name += "_total"
        family = self._family(row.kind, name, row.description or "of a program")
        if family is None:
            return
        if row.kind != "histogram":
            family.samples.append(_sample(name, labels, row.value or 0.0))
            return
        below = 0
        for bound, count in zip([*row.boundaries, float("inf")], row.counts, strict=True):
            below += count
            bucket = {**labels, "le": _number(bound)}
            family.samples.append(_sample(f"{name}_bucket", bucket, below))
        family.samples.append(_sample(f"{name}_sum", labels, row.value or 0.0))
        family.samples.append(_sample(f"{name}_count", labels, below))

    def _family(self, kind: str, name: str, help: str) -> _Family | None:
        family = self._families.setdefault(name, _Family(kind, help))
        return family if family.kind == kind else None

    def text(self) -> str:
        """Everything, each name with its help and type once."""
        lines: list[str] = []
        for name, family in self._families.items():
            text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {family.kind}", *family.samples]
        return "\n".join(lines) + "\n"


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    pairs = ",".join(f'{_label(key)}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{pairs}}} {_number(value)}"


def _label(key: str) -> str:
    """A tag's key as a label may be called."""
    key = re.sub(r"[^a-zA-Z0-9_]", "_", key)
    return f"_{key}" if key[:1].isdigit() or not key else key


def _labels(tags: Mapping[str, str], own: Collection[str]) -> dict[str, str]:
    """Tags as labels, each of a name of its own: Prometheus takes nothing of a page that has two.

    Args:
        tags: of a user, beside those that nbray adds.
        own: labels that nbray, or the kind of the metric, gives.
    """
    taken = set(own)
    names: dict[str, str] = {}
    # Who is called as a label may be comes before who becomes so.
    for key in sorted(tags, key=lambda key: (_label(key) != key, key)):
        name = _label(key)
        while name in taken or name.startswith("__"):  # these are Prometheus's own
            name = f"exported_{name}"
        taken.add(name)
        names[key] = name
    return {names[key]: text for key, text in tags.items()}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    if value == float("-inf"):
        return "-Inf"
    if value != value:
        return "NaN"
    return repr(int(value)) if abs(value) < _EXACT and value == int(value) else repr(value)


_NODE_STATS = {
    "cpu_percent": ("node_cpu_utilization", "CPU use of the machine, percent"),
    "memory_used": ("node_mem_used", "memory in use on the machine, bytes"),
    "memory_total": ("node_mem_capacity", "memory of the machine, bytes"),
    "store_used": ("object_store_used_memory", "object store in use, bytes"),
    "store_total": ("object_store_total_memory", "size of the object store, bytes"),
    "store_spilled": ("object_store_spilled_bytes", "values on disk, bytes"),
    "objects": ("object_store_num_objects", "values in the object store"),
    "workers": ("workers", "worker processes"),
    "pending_leases": ("scheduler_pending_leases", "lease requests that wait"),
    "gpu_percent": ("node_gpus_utilization", "use of the node's GPUs, percent, their mean"),
    "gpu_memory_used": ("node_gram_used", "memory in use on the node's GPUs, bytes"),
    "gpu_memory_total": ("node_gram_capacity", "memory of the node's GPUs, bytes"),
    "disk_used": ("node_disk_used", "disk in use where the logs are, bytes"),
    "disk_total": ("node_disk_capacity", "that disk, bytes"),
}
_NODE_COUNTERS = {
    "net_received": ("node_network_received_bytes_total", "bytes that the machine received"),
    "net_sent": ("node_network_sent_bytes_total", "bytes that the machine sent"),
    "disk_read": ("node_disk_read_bytes_total", "bytes that the machine read from disks"),
    "disk_written": ("node_disk_written_bytes_total", "bytes that the machine wrote to disks"),
}


def cluster_metrics(
    nodes: Iterable[NodeState],
    totals: TaskTotals,
    actors: Iterable[ActorState],
    demand: Iterable[DemandState],
    user: Iterable[NodeMetrics],
) -> str:
    """nbray's own metrics, then the user's."""
    out = Exposition()
    states = {"ALIVE": 0, "DEAD": 0}
    for node in nodes:
        states[node.state] += 1
        if node.state != "ALIVE":
            continue
        where = {"node_id": node.node_id, "node_address": node.node_ip}
        for kind, stats in (("gauge", _NODE_STATS), ("counter", _NODE_COUNTERS)):
            for key, (name, help) in stats.items():
                if key in node.stats:
                    out.add(kind, _PREFIX + name, help, node.stats[key], **where)
        for name, total in node.resources_total.items():
            available = node.resources_available.get(name, 0.0)
            for state, amount in (("USED", total - available), ("AVAILABLE", available)):
                out.add(
                    "gauge", _PREFIX + "resources", "amounts of resources", amount,
                    name=name, state=state, **where,
                )  # fmt: skip
    for state, count in states.items():
        out.add("gauge", _PREFIX + "nodes", "nodes of the cluster", count, state=state)
    by_state: dict[str, int] = {}
    for actor in actors:
        by_state[actor.state] = by_state.get(actor.state, 0) + 1
    for state, count in by_state.items():
        out.add("gauge", _PREFIX + "actors", "actors", count, state=state)
    for function in totals.functions:
        for state, count in (
            ("FINISHED", function.finished),
            ("FAILED", function.failed),
            ("CANCELLED", function.cancelled),
        ):
            out.add(
                "counter", _PREFIX + "tasks_total", "tasks and calls that ended", count,
                name=function.name, state=state,
            )  # fmt: skip
    for kind in ("task", "actor"):
        count = sum(row.count for row in demand if row.kind == kind)
        help = "tasks and actors that wait for resources, at least"
        out.add("gauge", _PREFIX + "waiting", help, count, type=kind)
    left_out = "records of the user's metrics that were left out"
    for answer in user:
        for row in answer.rows:
            out.add_row(row, answer.node_id.hex())
        name = _PREFIX + "metrics_left_out_total"
        out.add("counter", name, left_out, answer.dropped, node_id=answer.node_id.hex())
    return out.text()
