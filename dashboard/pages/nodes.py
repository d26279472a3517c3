"""Nodes, and one node: what it does, its workers, what keeps it, its store, its logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from nbray.state import queries as q
from nbray.state.client import RpcError
from nbray.state.rows import NodeState, TaskState, WorkerState

from ..parts.holders import HOLDERS, owners
from ..parts.html import Markup, bar, bytes_bar, facts, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section, find
from ..parts.table import Column, Table
from ..parts.words import ago, amounts, clock, count, first_line, size_text

_MOST_GPUS = 64
_HIDDEN = ("memory", "object_store_memory")


def _state(node: NodeState) -> Markup:
    if node.state != "ALIVE":
        return tag("span", f"dead: {first_line(node.state_message)}", class_="bad")
    return join(("alive", tag("div", node.state_message or "", class_="warn")))


def _use(node: NodeState) -> Markup:
    rows = [
        tag("div", f"{name} {total - node.resources_available.get(name, 0.0):g} of {total:g}")
        for name, total in node.resources_total.items()
        if name not in _HIDDEN and not name.startswith("node:")
    ]
    return join(rows)


def _stat(node: NodeState, key: str) -> float | None:
    return node.stats.get(key)


def _cpu(node: NodeState) -> object:
    share = _stat(node, "cpu_percent")
    return "" if share is None else bar(share / 100, f"{share:.0f} %")


def _of(node: NodeState, what: str) -> object:
    used, total = _stat(node, f"{what}_used"), _stat(node, f"{what}_total")
    return "" if used is None or not total else bytes_bar(used, total)


NODES = Table(
    [
        Column(
            "id",
            "node",
            lambda n: n.node_id,
            lambda n: join((ref("node", n.node_id), muted(" head") if n.is_head_node else "")),
        ),
        Column(
            "host",
            "host",
            lambda n: n.hostname or n.node_ip,
            lambda n: join((n.hostname, tag("div", n.node_ip, class_="dim"))),
        ),
        Column("ip", "address", lambda n: n.node_ip, hidden=True),
        Column("state", "state", lambda n: n.state, _state, choices=True),
        Column("cpu", "CPU", lambda n: _stat(n, "cpu_percent"), _cpu),
        Column("memory", "memory", lambda n: _stat(n, "memory_used"), lambda n: _of(n, "memory")),
        Column(
            "store", "object store", lambda n: _stat(n, "store_used"), lambda n: _of(n, "store")
        ),
        Column("disk", "disk", lambda n: _stat(n, "disk_used"), lambda n: _of(n, "disk")),
        Column("workers", "workers", lambda n: int(_stat(n, "workers") or 0), number=True),
        Column("use", "in use", lambda n: amounts(n.resources_total), _use),
    ],
    "node",
    "the living first",
)


async def show(look: Look) -> list[Section]:
    """All nodes."""
    nodes = await look.cluster.nodes()
    alive = sum(node.state == "ALIVE" for node in nodes)
    counts = muted(f"{alive:,} alive, {len(nodes) - alive:,} dead; ")
    title = join(("Nodes ", counts, link("bandwidth between them", "bandwidth")))
    return [look.table("nodes", title, NODES, nodes)]


def workers_table(tasks: Iterable[TaskState]) -> Table[WorkerState]:
    """Workers with what each runs now."""
    running: dict[str, list[TaskState]] = {}
    for row in tasks:
        if row.state == "RUNNING" and row.worker_id:
            running.setdefault(row.worker_id, []).append(row)

    def does(worker: WorkerState) -> object:
        rows = running.get(worker.worker_id, [])
        if not worker.is_alive:
            return join((worker.exit_type or "", tag("div", first_line(worker.exit_detail))))
        shown = join([ref("task", row.task_id, row.name) for row in rows[:3]], ", ")
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        actor = join((" ", ref("actor", worker.actor_id))) if worker.actor_id else ""
        return join((worker.activity.lower(), actor, ": " if rows else "", shown, more))

    return Table(
        [
            Column("id", "worker", lambda w: w.worker_id, lambda w: ref("worker", w.worker_id)),
            Column("pid", "pid", lambda w: w.pid),
            Column("living", "state", lambda w: "ALIVE" if w.is_alive else "DEAD", choices=True),
            Column("activity", "is", lambda w: w.activity, choices=True, hidden=True),
            Column(
                "does",
                "does",
                lambda w: " ".join(r.name for r in running.get(w.worker_id, [])),
                does,
            ),
            Column(
                "cpu",
                "CPU",
                lambda w: w.cpu_percent if w.is_alive else None,
                lambda w: f"{w.cpu_percent:.0f} %" if w.is_alive else "",
                number=True,
            ),
            Column(
                "memory",
                "memory",
                lambda w: w.rss_bytes or None,
                lambda w: size_text(w.rss_bytes) if w.rss_bytes else "",
                number=True,
            ),
            Column("job", "job", lambda w: w.job_id, lambda w: ref("job", w.job_id)),
            Column("node", "node", lambda w: w.node_id, lambda w: ref("node", w.node_id)),
        ],
        "process",
        "the living first",
        "w.",
        "processes",
    )


async def find_node(look: Look) -> NodeState:
    """The node that the query says, by its id, the beginning of it, its host or address."""
    return find(
        await look.cluster.nodes(),
        look.get("id"),
        "node",
        lambda n: n.node_id,
        lambda n: (n.hostname, n.node_ip),
    )


async def show_one(look: Look) -> list[Section]:
    """One node."""
    node = await find_node(look)
    (workers, missing), tasks, objects = await asyncio.gather(
        look.cluster.workers(), look.cluster.tasks(), look.cluster.objects()
    )
    mine = [worker for worker in workers if worker.node_id == node.node_id]
    mine.sort(key=lambda worker: (not worker.is_alive, worker.activity == "IDLE"))
    holders, idle = owners([one for one in objects.holders if one.node_id == node.node_id])
    query = {"node": node.node_id}
    title = join(("Node ", tag("code", node.node_id)))
    from ..parts.plots import PLOTS

    names = ["cpu", "memory", "store", "network", "disk", "waiting"]
    if "gpu_percent" in node.stats:
        names += ["gpu", "gpu-memory"]
    plots = (
        [
            Section(
                f"plot-{name}",
                link(PLOTS[name].title, "plot", name=name, node=node.node_id),
                plot=name,
                plot_query=query,
                wide=False,
            )
            for name in names
        ]
        if node.state == "ALIVE"
        else []
    )
    return [
        Section("node", title, _facts(node)),
        Section("keeps", "What keeps it", _keeps(node, mine), wide=False),
        Section("logs", "Logs", await _logs(look, node), wide=False),
        look.table(
            "workers",
            f"Processes ({sum(w.is_alive for w in mine):,} live)",
            workers_table(tasks.rows),
            mine,
            missing,
        ),
        look.table(
            "holders",
            join(("What its processes own ", muted("in and out of the store"))),
            HOLDERS,
            holders,
            [*objects.missing, *idle],
        ),
        Section("stream", "Task stream, the last minute", plot="task-stream", plot_query=query),
        *plots,
    ]


def _facts(node: NodeState) -> Markup:
    stats = node.stats
    return facts(
        [
            ("state", _state(node)),
            ("host", f"{node.hostname} {node.node_ip}"),
            ("head", "yes" if node.is_head_node else "no"),
            (
                "since",
                f"{clock(node.start_time_ms)}, {ago(node.start_time_ms, time.time() * 1000)}",
            ),
            ("ended", clock(node.end_time_ms)),
            ("CPU", _cpu(node)),
            ("memory", _of(node, "memory")),
            ("object store", _of(node, "store")),
            ("values in the store", f"{stats['objects']:,.0f}" if "objects" in stats else ""),
            ("spilled to disk", size_text(stats.get("store_spilled", 0.0))),
            ("disk", _of(node, "disk")),
            ("resources in use", _use(node)),
            ("accelerators", _accelerators(node)),
            ("labels", ", ".join(f"{key}={value}" for key, value in node.labels.items())),
        ]
    )


def _accelerators(node: NodeState) -> object:
    counted = {
        name: total
        for name, total in node.resources_total.items()
        if name in ("GPU", "TPU", "NPU") or name.startswith("accelerator_type:")
    }
    loads = [
        tag("div", gpu_words(node, number))
        for number in range(_MOST_GPUS)
        if f"gpu{number}_memory_total" in node.stats
    ]
    if not counted and not loads:
        return "none"
    scheduled = (amounts(counted), muted(" as scheduled")) if counted else ()
    note = "" if loads else muted("; no nvidia-smi there tells their load")
    return join((*scheduled, note, *loads))


def gpu_words(node: NodeState, number: int) -> Markup:
    """What one GPU does."""
    stats, key = node.stats, f"gpu{number}"
    percent = stats.get(f"{key}_percent")
    load = "load not told" if percent is None else f"{percent:.0f} %"
    memory = f"{size_text(stats.get(f'{key}_memory_used', 0.0))} of "
    memory += size_text(stats[f"{key}_memory_total"])
    return bar((percent or 0.0) / 100, f"GPU {number}: {load}, {memory}")


def _keeps(node: NodeState, workers: list[WorkerState]) -> Markup:
    """What would be lost with the node: so it is not idle."""
    live = [worker for worker in workers if worker.is_alive]
    words = []
    for activity, noun in (("DRIVER", "driver"), ("ACTOR", "actor"), ("BUSY", "leased worker")):
        if number := sum(worker.activity == activity for worker in live):
            words.append(count(number, noun))
    if objects := int(node.stats.get("objects", 0)):
        words.append(f"{count(objects, 'value')} in its store")
    if node.is_head_node:
        words.insert(0, "it is the head")
    return tag("p", ", ".join(words) or "Nothing: it is idle.")


async def _logs(look: Look, node: NodeState) -> Markup:
    if node.state != "ALIVE":
        return tag("p", "The logs of a node that has gone cannot be read.", class_="dim")
    try:
        sizes = await look.cluster.ask(q.logs(node.node_id, "*"), 5.0)
    except RpcError as error:
        return tag("p", f"The node does not answer: {error}", class_="bad")
    daemons = [name for name in sizes if not name.startswith("worker-")]
    parts = [link(name, "logs", node=node.node_id, name=name) for name in daemons]
    rest = len(sizes) - len(daemons)
    if rest:
        parts.append(link(f"{rest:,} of workers", "logs", node=node.node_id, q="worker-"))
    return tag("p", join(parts, ", "))


PAGES = (Page("nodes", "Nodes", show), Page("node", "Node", show_one, "nodes", needs_id=True))
