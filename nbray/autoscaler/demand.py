"""What a plan is made of, out of a snapshot of the GCS and the instances. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nbray.autoscaler.instances import Instances, Joined, State
from nbray.autoscaler.model import Ask, GroupAsk, Here, Rules, Wanted
from nbray.autoscaler.providers.base import INSTANCE_LABEL, TYPE_LABEL, Stage
from nbray.scheduling.bundles import Bundle
from nbray.wire.records import NodeInfo
from nbray.wire.scaling_messages import Requested, Snapshot, WaitingGroup
from nbray.wire.state_messages import DemandRow
from nbray.wire.strategies import Labelled, LabelTerm, Selectors


def joined(nodes: Iterable[NodeInfo]) -> dict[str, Joined]:
    """The nodes that are instances, by these."""
    return {
        node.labels[INSTANCE_LABEL]: Joined(node.node_id, node.draining)
        for node in nodes
        if INSTANCE_LABEL in node.labels
    }


def here(
    snapshot: Snapshot, instances: Instances, rules: Rules, refused: Mapping[str, float],
    now: float,
) -> list[Here]:  # fmt: skip
    """Every node and every instance there is.

    Args:
        snapshot: the cluster.
        instances: have looked at it.
        rules: what a node of a type will have.
        refused: instances whose node had work when it was to leave, and when to ask again.
        now: seconds since the epoch.
    """
    found = []
    known = set()
    for node in snapshot.nodes:
        name = node.labels.get(INSTANCE_LABEL, "")
        life = instances.get(name)
        seen = instances.seen(name)
        known.add(name)
        over = life is not None and life.state in (State.DRAINING, State.TERMINATING)
        found.append(
            Here(
                name or node.node_id.hex(), "" if life is None else life.type,
                node.total, node.available, node.labels,
                idle_s=node.idle_s,
                kept_by=tuple(node.kept_by),
                drains=bool(node.draining) or over,
                ends=None if seen is None else seen.ends,
                may_drain=refused.get(name, 0.0),
            )
        )  # fmt: skip
    for life in instances.all():
        if life.id in known:
            continue
        rule = rules.types.get(life.type)
        total = {} if rule is None else rule.resources
        labels = {TYPE_LABEL: life.type} if rule is None else rule.labels
        seen = instances.seen(life.id)
        waits = life.state in (State.QUEUED, State.REQUESTED)
        found.append(
            Here(
                life.id, life.type, total, total, labels, joined=False,
                waits=waits and (seen is None or seen.stage is Stage.WAITING),
                idle_s=now - life.since, drains=not life.on_its_way,
                ends=None if seen is None else seen.ends,
            )
        )  # fmt: skip
    for one in instances.by_others():
        if one.id not in known:
            rule = rules.types.get(one.type)
            total = {} if rule is None else rule.resources
            labels = {TYPE_LABEL: one.type} if rule is None else rule.labels
            found.append(Here(one.id, one.type, total, total, labels, joined=False, waits=False))
    return found


def wanted(snapshot: Snapshot) -> Wanted:
    """All demand, the same shapes together, in an order that depends on nothing else."""
    asks: dict[tuple[tuple[tuple[str, int], ...], Selectors], int] = {}
    for row in snapshot.waiting:
        key = tuple(sorted(row.resources.items())), _selector(row)
        asks[key] = asks.get(key, 0) + row.count
    return Wanted(
        [Ask(dict(shape), asks[shape, selector], selector) for shape, selector in _ordered(asks)],
        _groups(snapshot.groups, {node.node_id: node for node in snapshot.nodes}),
        [] if snapshot.requested is None else _requested(snapshot.requested),
    )


def _ordered(
    asks: Iterable[tuple[tuple[tuple[str, int], ...], Selectors]],
) -> list[tuple[tuple[tuple[str, int], ...], Selectors]]:
    return sorted(asks, key=lambda key: (key[0], str(key[1])) if key[1] else (key[0], ""))


def _selector(row: DemandRow) -> Selectors:
    """What a task asks of a node's labels, by its selector and by its strategy."""
    hard: tuple[LabelTerm, ...] = row.strategy.hard if isinstance(row.strategy, Labelled) else ()
    if not hard:
        return row.selector
    return tuple(terms + hard for terms in row.selector or ((),))


def _groups(groups: Sequence[WaitingGroup], nodes: Mapping[bytes, NodeInfo]) -> list[GroupAsk]:
    def name_of(node_id: bytes) -> str:
        node = nodes.get(node_id)
        label = "" if node is None else node.labels.get(INSTANCE_LABEL, "")
        return label or node_id.hex()

    return [
        GroupAsk(
            group.name or group.group_id.hex()[:8], group.strategy,
            tuple(Bundle(bundle.resources, bundle.selector) for bundle in group.bundles),
            tuple(name_of(node_id) for node_id in group.elsewhere),
        )
        for group in sorted(groups, key=lambda group: group.group_id)
    ]  # fmt: skip


def _requested(requested: Requested) -> list[Ask]:
    selectors = requested.selectors or [()] * len(requested.bundles)
    counts: dict[tuple[tuple[tuple[str, int], ...], Selectors], int] = {}
    for resources, selector in zip(requested.bundles, selectors, strict=True):
        key = tuple(sorted(resources.items())), selector
        counts[key] = counts.get(key, 0) + 1
    return [Ask(dict(shape), counts[shape, sel], sel) for shape, sel in _ordered(counts)]
