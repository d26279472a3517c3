"""What the cluster widget says of the cluster: a snapshot, and its HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from nbray.notebook import ActorState, DemandState, NodeState, engine

from ..pictures import theme
from ..pictures.tables import as_bytes, count

_MAX_ROWS = 12
_ALL = 10_000


@dataclass(frozen=True)
class ClusterSnapshot:
    """The cluster at one moment; ``is_last`` when nobody will say more."""

    nodes: Sequence[NodeState] = ()
    actors: Sequence[ActorState] = ()
    demand: Sequence[DemandState] = ()
    in_flight: dict[str, tuple[int, int]] = field(default_factory=dict)
    error: str = ""
    is_last: bool = False


def take_snapshot(in_flight: dict[str, tuple[int, int]]) -> ClusterSnapshot:
    """Ask the cluster what lives; ``in_flight``: how many tasks of a function run and wait here.

    Raises:
        NbrayError: it does not answer.
    """
    return ClusterSnapshot(
        engine().state.list_nodes(filters=[("state", "=", "ALIVE")], limit=_ALL, timeout=5),
        engine().state.list_actors(filters=[("state", "!=", "DEAD")], limit=_ALL, timeout=5),
        engine().cluster.demand(timeout=5), in_flight,
    )  # fmt: skip


def nodes_html(snapshot: ClusterSnapshot) -> str:
    """A row for each node that is alive, with bars."""
    alive = [node for node in snapshot.nodes if node.state == "ALIVE"]
    if not alive:
        return ""
    rows = [
        (
            f"<b>{theme.escape(node.node_id[:8])}</b> "
            + theme.muted("head" if node.is_head_node else node.node_ip),
            _share(node, "CPU"),
            _bytes_share(node.stats.get("memory_used", 0.0), node.stats.get("memory_total", 0.0)),
            _bytes_share(node.stats.get("store_used", 0.0), node.stats.get("store_total", 0.0)),
            theme.muted(_kept_by(node)),
        )
        for node in alive[:_MAX_ROWS]
    ]
    more = _more(len(alive), "node")
    return (
        str(theme.grid(("node", "CPUs in use", "memory", "object store", "kept by"), rows)) + more
    )


def _kept_by(node: NodeState) -> str:
    """What keeps a node, or for how long nothing has."""
    words = ", ".join(node.kept_by) or f"idle for {node.idle_s:.0f} s"
    return f"{node.state_message}; {words}" if node.state_message else words


def _share(node: NodeState, name: str) -> str:
    total = node.resources_total.get(name, 0.0)
    if not total:
        return str(theme.muted("none"))
    used = total - node.resources_available.get(name, 0.0)
    return f"{theme.bar(used / total, width='90px')} {used:g} of {total:g}"


def _bytes_share(used: float, total: float) -> str:
    if not total:
        return str(theme.muted("none"))
    words = f"{as_bytes(used)} of {as_bytes(total)}"
    return f"{theme.bar(used / total, width='90px')} {words}"


def work_html(snapshot: ClusterSnapshot) -> str:
    """Tasks of this notebook in flight, actors, and what waits and why."""
    parts = []
    if snapshot.in_flight:
        tasks = [
            f"{theme.escape(name)} {running:,} running, {waiting:,} waiting"
            for name, (running, waiting) in snapshot.in_flight.items()
        ]
        parts.append(_list("tasks", tasks))
    alive = Counter(
        (actor.class_name, actor.state) for actor in snapshot.actors if actor.state != "DEAD"
    )
    if alive:
        parts.append(
            _list(
                "actors",
                [
                    f"{number} {theme.escape(name)} {theme.muted(state.lower())}"
                    for (name, state), number in alive.items()
                ],
            )
        )
    if snapshot.demand:
        parts.append(_list("waiting", [_why(demand) for demand in snapshot.demand]))
    return "".join(parts) or str(theme.muted("Nothing runs and nothing waits."))


def _why(demand: DemandState) -> str:
    shape = ", ".join(f"{name} {amount:g}" for name, amount in demand.resources.items())
    words = f"{count(demand.count, demand.kind)} for {{{shape}}} since {demand.waiting_s:.0f} s"
    if demand.reason:
        return f'<span style="color:{theme.BAD}">{theme.escape(f"{words}: {demand.reason}")}</span>'
    return str(theme.escape(f"{words}: all that would serve it is in use"))


def _list(title: str, items: list[str]) -> str:
    style = "max-width:60em;overflow-wrap:anywhere"
    shown = "".join(f'<div style="{style}">{item}</div>' for item in items[:_MAX_ROWS])
    more = _more(len(items), "line")
    return (
        '<div style="display:flex;gap:12px;margin:4px 0;line-height:1.5">'
        '<div style="min-width:56px">'
        f'{theme.muted(title)}</div><div style="min-width:0">{shown}{more}</div></div>'
    )


def _more(number: int, noun: str) -> str:
    if number <= _MAX_ROWS:
        return ""
    return str(theme.muted(f"and {count(number - _MAX_ROWS, noun)} more"))


def title_html(snapshot: ClusterSnapshot, address: str) -> str:
    """The line above."""
    if snapshot.error:
        return f'<span style="color:{theme.BAD}">{theme.escape(snapshot.error)}</span>'
    alive = sum(node.state == "ALIVE" for node in snapshot.nodes)
    return f"<b>nbray</b>&ensp;{count(alive, 'node')} {theme.muted(address)}"
