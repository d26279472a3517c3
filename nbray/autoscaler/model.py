"""What a plan is made of, and what it says: rules, nodes, demand; launches and drains. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nbray.scheduling.bundles import Bundle
from nbray.wire.strategies import GroupStrategy, Selectors


@dataclass(frozen=True)
class TypeRules:
    """What a plan may do with nodes of a type; resources in units of 1/10000.

    Attributes:
        not_before: none is launched before that time: the last ones failed.
    """

    name: str
    resources: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    least: int = 0
    most: int = 0
    idle_s: float = 300.0
    priority: int = 0
    not_before: float = 0.0


@dataclass(frozen=True)
class Rules:
    """What a plan may do.

    Attributes:
        types: by name.
        most: nodes of all types together.
        speed: so many times the running nodes of a type may be on their way at once.
        ends_s: so long before its place ends it, a node is drained.
    """

    types: Mapping[str, TypeRules]
    most: int
    speed: float = 1.0
    ends_s: float = 120.0


@dataclass(frozen=True)
class Here:
    """A node, or an instance on its way to be one.

    Attributes:
        id: the instance; of a node that nobody launched, its node id in hexadecimal.
        type: its type; empty for the head, and for nodes that were started by hand.
        total, available: resources in units of 1/10000; of one on its way, what it will have.
        joined: it is a node of the cluster.
        waits: it is not even a machine yet, so it costs nothing to take it back.
        idle_s: for how long nothing has kept it, or it has been on its way.
        kept_by: what keeps it, in words.
        drains: it is on its way out, and counts for nothing but the bounds.
        ends: when its place ends it.
        may_drain: not before that time; it refused a moment ago.
    """

    id: str
    type: str
    total: Mapping[str, int]
    available: Mapping[str, int]
    labels: Mapping[str, str]
    joined: bool = True
    waits: bool = False
    idle_s: float = 0.0
    kept_by: tuple[str, ...] = ()
    drains: bool = False
    ends: float | None = None
    may_drain: float = 0.0


@dataclass(frozen=True)
class Ask:
    """So many tasks or actors of one shape; ``selector`` as for `nbray.scheduling.policy`."""

    resources: Mapping[str, int]
    count: int = 1
    selector: Selectors = ()


@dataclass(frozen=True)
class GroupAsk:
    """Bundles that are to be reserved together; ``elsewhere``: where the group has others."""

    name: str
    strategy: GroupStrategy
    bundles: tuple[Bundle, ...]
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """All demand of one moment; ``requested`` is laid out on what nodes have, not what is free."""

    asks: Sequence[Ask] = ()
    groups: Sequence[GroupAsk] = ()
    requested: Sequence[Ask] = ()


@dataclass(frozen=True)
class Launch:
    """So many new nodes of a type, and for what."""

    type: str
    count: int
    why: str


@dataclass(frozen=True)
class Drain:
    """An instance that is to go.

    Attributes:
        only_idle: it may refuse if it has work; else it has ``deadline_s`` seconds (0: any).
    """

    id: str
    why: str
    only_idle: bool = True
    deadline_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What is to be done, why each instance stays, and what waits in vain, in sentences."""

    launch: tuple[Launch, ...]
    drain: tuple[Drain, ...]
    kept_by: Mapping[str, tuple[str, ...]]
    unmet: tuple[str, ...]
