"""What a node has to give: its own resources, and the bundles of placement groups in them. Pure.

A bundle is an allocation of the node with a set of its own. What a group needs that has waited for
long is kept for it as it becomes free (`keep_room`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from nbray.common.resources import fits, total_of
from nbray.raylet.workers.resource_set import Allocation, Devices, ResourceSet
from nbray.scheduling.policy import Demand, bundles_of, could_hold, may_run
from nbray.wire.records import BundleInfo, NodeInfo
from nbray.wire.strategies import InGroup

Bundles = Mapping[int, Mapping[str, int]]
"""Resources by the index of the bundle."""


class _Bundle(NamedTuple):
    """A bundle that is here: what it has of the node, its own set, and how the row shows it."""

    allocation: Allocation
    inner: ResourceSet
    shown: BundleInfo


class NodeResources:
    """Resources of one node.

    ``row`` is its row in the node table: what is available there, and its bundles, are kept here.
    """

    def __init__(self, row: NodeInfo, devices: Devices | None = None) -> None:
        self.row = row
        self.node = ResourceSet(row.total, devices)
        row.available = self.node.available
        row.bundles = []
        self._bundles: dict[tuple[bytes, int], _Bundle] = {}
        self._kept: dict[bytes, tuple[Bundles, float]] = {}

    def reserve(self, group_id: bytes, bundles: Bundles) -> bool:
        """Take these bundles of a group, all or none; those that are here already stay."""
        if not self.row.takes_work:
            return False
        taken: dict[int, Allocation] = {}
        kept = self.kept(besides=group_id)
        for index, resources in bundles.items():
            if (group_id, index) in self._bundles:
                continue
            found = self._take_beside(kept, resources)
            if found is None:
                for allocation in taken.values():
                    allocation.free()
                return False
            taken[index] = found
        for index, allocation in taken.items():
            inner = allocation.as_set()
            shown = BundleInfo(group_id, index, inner.total, inner.available)
            self._bundles[(group_id, index)] = _Bundle(allocation, inner, shown)
            self.row.bundles.append(shown)
        return True

    def commit(self, group_id: bytes, index: int) -> None:
        """Let a bundle be used, if it is here."""
        bundle = self._bundles.get((group_id, index))
        if bundle is not None:
            bundle.shown.committed = True

    def release(self, keys: Iterable[tuple[bytes, int]]) -> list[ResourceSet]:
        """Give bundles back; the sets of which things may still be in use, of those here."""
        found = [bundle for key in keys if (bundle := self._bundles.pop(key, None)) is not None]
        if found:
            self.row.bundles[:] = [bundle.shown for bundle in self._bundles.values()]
        for bundle in found:
            bundle.allocation.free()
            bundle.inner.retired = True
        return [bundle.inner for bundle in found]

    def shown(self, group_ids: Container[bytes]) -> list[BundleInfo]:
        """The bundles of these groups, as the row shows them."""
        return [bundle for bundle in self.row.bundles if bundle.group_id in group_ids]

    def keep_room(self, group_id: bytes, bundles: Bundles, until: float) -> None:
        """Keep what becomes free for those of these bundles that are not reserved, until then."""
        self._kept[group_id] = bundles, until

    def forget_room(self, now: float) -> bool:
        """End what was kept long enough; whether there was any."""
        over = [group_id for group_id, (_, until) in self._kept.items() if until <= now]
        for group_id in over:
            del self._kept[group_id]
        return bool(over)

    def kept(self, besides: bytes = b"") -> dict[str, int]:
        """What is kept for groups, but for one of them."""
        return total_of(
            resources
            for group_id, (bundles, _) in self._kept.items()
            for index, resources in bundles.items()
            if group_id != besides and (group_id, index) not in self._bundles
        )

    def take(self, demand: Demand, kept: Mapping[str, int]) -> Allocation | None:
        """Take what is needed, here or in a bundle, beside what is kept; None if it is not free."""
        strategy = demand.strategy
        if not isinstance(strategy, InGroup):
            runs = self.row.takes_work and may_run(demand, self.row)
            return self._take_beside(kept, demand.resources) if runs else None
        for bundle in bundles_of(strategy, self.row):
            taken = self._bundles[(bundle.group_id, bundle.index)].inner.take(demand.resources)
            if taken is not None:
                return taken
        return None

    def _take_beside(
        self, kept: Mapping[str, int], resources: Mapping[str, int]
    ) -> Allocation | None:
        """Take resources of the node if what is kept for others remains."""
        if kept and resources:
            both = total_of([resources, {n: kept[n] for n in resources if n in kept}])
            if not fits(both, self.node.available):
                return None
        return self.node.take(resources)

    def serves(self, demand: Demand) -> bool:
        """Whether this node could ever serve a demand."""
        if not self.row.takes_work and not isinstance(demand.strategy, InGroup):
            return False
        return could_hold(demand, self.row) and may_run(demand, self.row)
