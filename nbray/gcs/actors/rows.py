"""The rows of actors in the state API."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from nbray.gcs.actors.actor import Actor
from nbray.gcs.actors.life import State
from nbray.gcs.actors.placement import demand_of, shape_of
from nbray.scheduling.explain import why_pending
from nbray.wire.records import NodeInfo
from nbray.wire.state_messages import ActorRow, DemandRow
from nbray.wire.strategies import InGroup, Shape


def actor_rows(actors: Iterable[Actor], nodes: Sequence[NodeInfo]) -> list[ActorRow]:
    """A row for each actor."""
    reasons: dict[Shape, str] = {}
    return [_row(actor, nodes, reasons) for actor in actors]


def _row(actor: Actor, nodes: Sequence[NodeInfo], reasons: dict[Shape, str]) -> ActorRow:
    spec, life = actor.spec, actor.life
    options, address = spec.options, life.address
    return ActorRow(
        spec.actor_id, spec.job_id, spec.class_name, options.name, options.namespace,
        options.detached, life.state,
        address.node_id if address else b"", address.worker_id if address else b"",
        life.pid, life.restarts, options.resources, str(life.cause or ""), life.started,
        _why_unplaced(actor, nodes, reasons), life.placing if life.unplaced else b"", life.shown,
        options.strategy.group_id if isinstance(options.strategy, InGroup) else b"",
        options.runtime_env, life.cause.kind if life.cause else "",
        address.host if address else "", spec.owner.worker_id, spec.owner.host,
        options.selector,
    )  # fmt: skip


def _why_unplaced(actor: Actor, nodes: Sequence[NodeInfo], reasons: dict[Shape, str]) -> str:
    """What an actor waits for that no node was asked to start; said once for each shape."""
    life, options = actor.life, actor.spec.options
    if life.state is State.DEPENDENCIES_UNREADY:
        return "It waits for arguments of its constructor."
    if not life.unplaced or life.placing:
        return ""
    shape = shape_of(options)
    if shape not in reasons:
        reasons[shape] = " ".join(why_pending(demand_of(options), nodes))
    return reasons[shape]


def unplaced_rows(actors: Iterable[Actor]) -> list[DemandRow]:
    """The actors for which no node has the resources at all, by shape."""
    rows: dict[Shape, DemandRow] = {}
    now = time.monotonic()
    for actor in actors:
        if not actor.unplaced_since or not actor.life.unplaced:
            continue
        shape = shape_of(actor.spec.options)
        row = rows.setdefault(
            shape,
            DemandRow(dict(shape.resources), 0, 0.0, True, b"", "", shape.strategy, shape.selector),
        )
        row.count += 1
        row.waiting_s = max(row.waiting_s, now - actor.unplaced_since)
    return list(rows.values())
