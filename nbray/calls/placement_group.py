"""Placement groups: resources reserved together, on one node or spread over several."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from nbray.common.ids import JobID, NodeID, PlacementGroupID
from nbray.common.resources import MOST_UNITS, UNIT, fits, from_units, to_units
from nbray.common.text import check_text
from nbray.common.timeouts import as_timeout
from nbray.core_worker.context import current_origin, running
from nbray.core_worker.current import find_core
from nbray.driver.driver import current_core
from nbray.exceptions import NbraySystemError
from nbray.object_ref import ObjectRef
from nbray.scheduling.labels import NODE_ID, parse_selector
from nbray.wire.records import BundleSpec, GroupSpec
from nbray.wire.strategies import STRATEGIES, GroupStrategy, InGroup

if TYPE_CHECKING:
    from nbray.wire.gcs_messages import GroupRow


class PlacementGroup:
    """A handle of a placement group; may be passed to tasks and actors.

    Args:
        id: its id, as that or as bytes.
        bundle_cache: what its bundles reserve; looked up when it is needed otherwise.

    Raises:
        TypeError: ``id`` is no id. ValueError: it has not the length of one.

    Examples:
        >>> group = nbray.util.placement_group([{"CPU": 1}, {"CPU": 0.5}], strategy="PACK")
        >>> group.wait(timeout_seconds=30), group.bundle_count
        (True, 2)
        >>> nbray.util.remove_placement_group(group)
    """

    def __init__(
        self, id: PlacementGroupID | bytes, bundle_cache: list[dict[str, float]] | None = None
    ) -> None:
        if not isinstance(id, PlacementGroupID):
            id = PlacementGroupID(id) if id != b"" else PlacementGroupID.nil()
        self._id = b"" if id.is_nil() else id.binary()
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """No group: what uses it runs outside all groups."""
        return PlacementGroup(b"", [])

    @property
    def id(self) -> PlacementGroupID:
        """Its id."""
        return PlacementGroupID(self._id) if self._id else PlacementGroupID.nil()

    @property
    def is_empty(self) -> bool:
        """Whether it is no group."""
        return not self._id

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle reserves.

        Raises:
            ValueError: the cluster does not know the group.
        """
        if self.bundle_cache is None:
            rows = _find(self._id)
            if not rows:
                raise ValueError(f"Failed to look up placement group with id: {self._id.hex()}")
            self.bundle_cache = [from_units(b.resources) for b in rows[0].spec.bundles]
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef:
        """A ref whose value is the group once it is created; the error if it is removed."""
        return current_core().groups.ready_ref(self._id, self)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether it is created within so many seconds.

        Args:
            timeout_seconds: how long to wait.

        Returns:
            True when all its bundles are reserved.

        Raises:
            NbraySystemError: it was removed.
        """
        return current_core().groups.wait(self._id, as_timeout(timeout_seconds))

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self._id, self.bundle_cache)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self._id.hex()})"


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
) -> PlacementGroup:
    """Reserve bundles of resources together; comes back at once.

    Args:
        bundles: resources by name, for each bundle.
        strategy: PACK (few nodes, as by default), SPREAD (many), STRICT_PACK (one), STRICT_SPREAD
            (one each).
        name: unique in the namespace.
        lifetime: "detached" to outlive its creator.
        _soft_target_node_id: with STRICT_PACK, the node that is tried first, as hexadecimal text.
        bundle_label_selector: conditions on the labels of each bundle's node.
        topology_strategy: the strategy by the label "ray.io/node-id"; instead of ``strategy``.

    Returns:
        A handle of the group, which is made meanwhile: `PlacementGroup.ready` and
        `PlacementGroup.wait` wait for it.

    Raises:
        ValueError: an argument is impossible. NbraySystemError: the name is taken, or a resource
            is called "bundle". NotImplementedError: ``topology_strategy`` has another label.

    Examples:
        >>> from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
        >>> group = nbray.util.placement_group([{"CPU": 1}] * 2)
        >>> nbray.get(group.ready()) == group
        True

        >>> @nbray.remote(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
        ... def inside():
        ...     return nbray.util.get_current_placement_group() == group
        >>> nbray.get(inside.remote())
        True
        >>> nbray.util.remove_placement_group(group)
    """
    selectors = list(bundle_label_selector or ())
    strategy = _of_topology(strategy, topology_strategy)
    chosen = _strategy(strategy)
    _check(bundles, strategy, lifetime, selectors, _soft_target_node_id)
    if not isinstance(name, str):
        raise ValueError(f"Placement group name must be a string, got {type(name)}.")
    if name:
        name = check_text("The name of a placement group", name)
    target = NodeID.from_hex(_soft_target_node_id).binary() if _soft_target_node_id else b""
    task = running.get()
    specs = [
        BundleSpec(to_units(bundle), parse_selector(selectors[i]) if selectors else ())
        for i, bundle in enumerate(bundles)
    ]
    core = current_core()
    group_id = os.urandom(PlacementGroupID.SIZE - JobID.SIZE) + core.job.job_id
    spec = GroupSpec(
        group_id, specs, chosen, core.job, name, core.job.namespace, lifetime == "detached",
        task.actor_id if task is not None else b"", target, current_origin(),
    )  # fmt: skip
    core.groups.create(spec)
    most = MOST_UNITS // UNIT
    return PlacementGroup(
        group_id, [{name: float(min(amount, most)) for name, amount in bundle.items()}
                   for bundle in bundles],
    )  # fmt: skip


def _of_topology(strategy: str | None, topology: Any) -> str:
    if topology is None:
        return "PACK" if strategy is None else strategy
    if strategy is not None:
        raise ValueError(
            "`strategy` and `topology_strategy` cannot both be specified. Pass node-level packing "
            f"via `topology_strategy['{NODE_ID}']`."
        )
    if not isinstance(topology, Mapping):
        raise ValueError(f"`topology_strategy` must be a dict, got {type(topology).__name__}.")
    for label, name in topology.items():
        if name not in STRATEGIES:
            raise ValueError(
                f"Invalid topology strategy {name!r} for label {label!r}. Supported strategies "
                f"are: {set(STRATEGIES)}."
            )
        if label != NODE_ID:
            raise NotImplementedError(
                f"nbray places bundles by nodes, not by the label {label!r}: name "
                f"{NODE_ID!r}, or say by bundle_label_selector which nodes may have each."
            )
    return str(topology.get(NODE_ID, "PACK"))


def _strategy(name: str) -> GroupStrategy:
    for one in STRATEGIES:
        if name == one:
            return one
    raise ValueError(
        f"Invalid placement group strategy {name}. Supported strategies are: {set(STRATEGIES)}."
    )


def _check(
    bundles: Any, strategy: str, lifetime: Any, selectors: list[Any], target: str | None
) -> None:
    if target and strategy != "STRICT_PACK":
        raise ValueError(
            f"_soft_target_node_id currently only works with STRICT_PACK but got {strategy}"
        )
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    wanted = "Bundles must be a non-empty list of resource dictionaries. "
    wanted += 'For example: `[{"CPU": 1.0}, {"GPU": 1.0}]`.'
    if not bundles:
        raise ValueError(f"{wanted} Got empty list instead.")
    for bundle in bundles:
        if not isinstance(bundle, dict) or not all(
            isinstance(name, str) and isinstance(amount, int | float)
            for name, amount in bundle.items()
        ):
            raise ValueError(wanted)
        if "bundle" in bundle:
            raise NbraySystemError(
                "bundle is a system reserved resource, which is not allowed to be used in "
                "placement group."
            )
        if not any(bundle.values()):
            raise ValueError(
                "Bundles cannot be an empty dictionary or "
                f"resources with only 0 values. Bundles: {bundles}"
            )
    if selectors and len(selectors) != len(bundles):
        raise ValueError(
            f"Invalid bundle label selector {selectors}. "
            "The length of `bundle_label_selector` should equal the length of `bundles`."
        )
    if lifetime not in (None, "detached"):
        raise ValueError(
            "Placement group `lifetime` argument must be either `None` or "
            f"'detached'. Got {lifetime}."
        )


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Remove a group: what runs in it is ended, and its resources are free again.

    Args:
        placement_group: its handle.

    Raises:
        TypeError: something else was given.

    Examples:
        >>> group = nbray.util.placement_group([{"CPU": 1}])
        >>> nbray.util.remove_placement_group(group)
        >>> nbray.util.placement_group_table(group)["state"]
        'REMOVED'
    """
    _check_group(placement_group)
    current_core().groups.remove(placement_group._id)


def _check_group(group: object) -> None:
    if not isinstance(group, PlacementGroup):
        raise TypeError(f"A PlacementGroup is needed, not {type(group)}.")


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of that name in this namespace.

    Args:
        placement_group_name: the name that it was given.

    Returns:
        A handle of it.

    Raises:
        ValueError: there is none of that name in the namespace. TypeError: the name is no text.

    Examples:
        >>> group = nbray.util.placement_group([{"CPU": 1}], name="pair")
        >>> nbray.util.get_placement_group("pair") == group
        True
        >>> nbray.util.remove_placement_group(group)
    """
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    if not isinstance(placement_group_name, str):
        raise TypeError(
            f"The name of a placement group is a str, not {type(placement_group_name)}."
        )
    name = check_text("The name of a placement group", placement_group_name)
    namespace = current_core().job.namespace
    rows = _find(name=name, namespace=namespace)
    if not rows:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")
    return PlacementGroup(rows[0].spec.group_id)


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What the cluster knows of a group, or of all by id, with Ray's keys.

    Args:
        placement_group: which group; all by default.

    Returns:
        Its "state", "strategy", "bundles" (amounts by name), "bundles_to_node_id" and more; of all
        groups, these by the group's id as hexadecimal text.

    Examples:
        >>> group = nbray.util.placement_group([{"CPU": 1}])
        >>> group.wait()
        True
        >>> nbray.util.placement_group_table(group)["bundles"]
        {0: {'CPU': 1.0}}
        >>> nbray.util.remove_placement_group(group)
    """
    if placement_group is not None:
        _check_group(placement_group)
        rows = _find(placement_group._id)
        return _row(rows[0]) if rows else {}
    return {row.spec.group_id.hex(): _row(row) for row in _find()}


def get_current_placement_group() -> PlacementGroup | None:
    """The group that this task or actor runs in; None outside all groups.

    Returns:
        A handle of it, or None.

    Examples:
        >>> nbray.util.get_current_placement_group() is None  # this is the driver
        True
    """
    found = current_group()
    return PlacementGroup(found.group_id) if found is not None else None


def current_group() -> InGroup | None:
    """The place of the task or actor that calls this, if that is in a group."""
    task = running.get()
    if task is not None and task.group is not None:
        return task.group
    core = find_core()
    return core.actor_group if core is not None else None


def _find(group_id: bytes = b"", name: str = "", namespace: str = "") -> list[GroupRow]:
    from nbray.wire.gcs_messages import Groups, NamedGroup

    request = msgspec.msgpack.encode(NamedGroup(group_id, name, namespace))
    body = current_core().peers.gcs_call("FindGroups", request)
    return msgspec.msgpack.decode(body, type=Groups).rows


def _row(life: GroupRow) -> dict[str, Any]:
    from nbray.state.queries import group_stats  # rows of all kinds: not at every start

    spec = life.spec
    return {
        "placement_group_id": spec.group_id.hex(),
        "name": spec.name,
        "bundles": {i: from_units(bundle.resources) for i, bundle in enumerate(spec.bundles)},
        "bundles_to_node_id": {
            i: life.placed[i].hex() if i in life.placed else "" for i in range(len(spec.bundles))
        },
        "strategy": spec.strategy,
        "state": life.state,
        "stats": group_stats(life, "ms", 1e3),
        "reasons": life.reasons,
    }


def place_in_group(
    group: PlacementGroup, index: int, capture: bool, resources: Mapping[str, int], what: str
) -> InGroup:
    """The strategy of something that runs in a group, checked.

    Raises:
        ValueError: there is no such bundle, or none that could ever hold it.
    """
    bundles = group.bundle_specs
    if not isinstance(index, int) or index >= len(bundles) or index < -1:
        raise ValueError(
            f"placement group bundle index {index} "
            f"is invalid. Valid placement group indexes: 0-{len(bundles)}"
        )
    able = bundles if index < 0 else [bundles[index]]
    if not any(fits(resources, to_units(bundle)) for bundle in able):
        where = "any bundle" if index < 0 else f"bundle {index}"
        raise ValueError(
            f"Cannot schedule {what} with the placement group because the resource request "
            f"{from_units(resources)} cannot fit into {where} for the placement group, {bundles}."
        )
    return InGroup(group._id, index, bool(capture))
