"""What the autoscaler is told of a cluster, and what it tells: the demand, and its last report.

The snapshot is of one moment, so that what waits and what is free belong together. A request that
has waited for less than `_SETTLED_S` is left out: it is about to be granted, or to move on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from nbray.gcs.kv.space import KeyValueSpace
from nbray.gcs.loads import NodeLoads
from nbray.wire import scaling_messages as sm
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import Handler
from nbray.wire.records import NodeInfo
from nbray.wire.state_messages import DemandRow
from nbray.wire.strategies import InGroup, OnNode, Shape

_SETTLED_S = 0.3


class Actors(Protocol):
    """What is known of actors that wait for resources."""

    def unplaced(self) -> list[DemandRow]:
        """The actors for which no node has the resources at all, by shape."""

    def refused(self) -> Mapping[Shape, int]:
        """How many actors were refused by a node that had no room, and have no process yet."""


class Groups(Protocol):
    """What is known of placement groups that wait."""

    def without_place(self, before: float) -> list[sm.WaitingGroup]:
        """Those for whose bundles there is no room, of those that were created before."""


class ScalingTables:
    """The GCS methods of the autoscaler, but for the drain of a node, which is the node table's.

    Args:
        nodes: the rows of nodes that are alive.
        loads: what each of them said last of its load.
        actors: that wait.
        groups: that wait.
        kv: where programs leave what they request.
    """

    def __init__(
        self, nodes: Callable[[], list[NodeInfo]], loads: NodeLoads,
        actors: Actors, groups: Groups, kv: KeyValueSpace,
    ) -> None:  # fmt: skip
        self._nodes = nodes
        self._loads = loads
        self._actors = actors
        self._groups = groups
        self._kv = kv
        self._report: sm.ScalingReport | None = None
        self._began = time.monotonic()

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "ScalingSnapshot": (Empty, self._snapshot),
            "ReportScaling": (sm.ScalingReport, self._take_report),
            "Scaling": (Empty, self._tell),
        }

    def grows(self) -> bool:
        """Whether an autoscaler may start nodes."""
        return self._report is not None

    def coming(self) -> list[str]:
        """Sentences on nodes that are started for those who wait."""
        return [] if self._report is None else self._report.coming

    async def _snapshot(self, _request: Empty) -> sm.Snapshot:
        nodes = self._nodes()
        rows: list[DemandRow] = []
        asking: dict[Shape, list[DemandRow]] = {}
        for node in nodes:
            load = self._loads.get(node.node_id)
            for w in load.waiting if load is not None else ():
                if w.waiting_s < _SETTLED_S or w.why or not _anywhere(w.strategy):
                    continue
                row = DemandRow(
                    w.resources, w.count, w.waiting_s, w.for_actor, node.node_id,
                    strategy=w.strategy, selector=w.selector,
                )  # fmt: skip
                if w.for_actor:
                    shape = Shape(tuple(sorted(w.resources.items())), w.strategy, w.selector)
                    asking.setdefault(shape, []).append(row)
                else:
                    rows.append(row)
        # A raylet's word on an actor may be of a moment ago, and the actor be asked for elsewhere.
        refused = self._actors.refused()
        for shape, same in asking.items():
            count = min(sum(row.count for row in same), refused.get(shape, 0))
            if count:
                same[0].count = count
                rows.append(same[0])
        rows += [row for row in self._actors.unplaced() if _anywhere(row.strategy)]
        requested = self._kv.get(sm.SCALING, sm.REQUESTED)
        bounds = self._kv.get(sm.SCALING, sm.BOUNDS)
        return sm.Snapshot(
            nodes, rows, self._groups.without_place(time.time() - _SETTLED_S),
            None if requested is None else msgspec.msgpack.decode(requested, type=sm.Requested),
            None if bounds is None else msgspec.msgpack.decode(bounds, type=sm.Bounds),
            time.monotonic() - self._began,
        )  # fmt: skip

    async def _take_report(self, report: sm.ScalingReport) -> Empty:
        self._report = report
        return Empty()

    async def _tell(self, _request: Empty) -> sm.Scaling:
        return sm.Scaling(self._report)


def _anywhere(strategy: object) -> bool:
    """Whether another node might help: neither bound to one, nor in a group, which asks itself."""
    if isinstance(strategy, OnNode):
        return strategy.soft
    return not isinstance(strategy, InGroup)
