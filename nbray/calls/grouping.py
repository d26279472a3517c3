"""In which placement group a task or actor runs: by its options, or captured from its parent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbray.calls.placement_group import PlacementGroup, place_in_group
from nbray.core_worker.context import running
from nbray.scheduling.strategies import PlacementGroupSchedulingStrategy
from nbray.wire.strategies import InGroup

_DEFAULT = "default"

GROUP_OPTIONS = frozenset(
    {"scheduling_strategy", "placement_group", "placement_group_bundle_index"}
)
"""The options of which one says where a task runs; without them, its parent may."""


def group_strategy(
    options: Mapping[str, Any], resources: Mapping[str, int], what: str, actor: bool = False
) -> InGroup | None:
    """The place in a group; None if it runs outside all groups.

    Without a word on it ("default"), that is its parent's, if that says so; the option None is
    outside all groups.

    Args:
        options: those of the task or actor.
        resources: what it needs, in units.
        what: how an error names it.
        actor: it is one; of a task that runs in its parent's group, bundles are not looked up.

    Raises:
        ValueError: there is no such bundle, or none that could ever hold it.
    """
    strategy = options.get("scheduling_strategy")
    group = options.get("placement_group", _DEFAULT)
    index = options.get("placement_group_bundle_index", -1)
    capture = options.get("placement_group_capture_child_tasks")
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        group = strategy.placement_group
        index = strategy.placement_group_bundle_index
        capture = strategy.placement_group_capture_child_tasks
    elif strategy is None and group == _DEFAULT:
        task = running.get()
        captured = task.group if task is not None else None
        if captured is not None and (captured.capture if capture is None else capture):
            if actor:
                return _captured(captured, index, resources, what)
            return InGroup(captured.group_id, -1 if index is None else index, True)
        if index in (-1, None):
            return None
    if not isinstance(group, PlacementGroup) and group not in (None, _DEFAULT):
        raise TypeError(
            f"placement_group must be a PlacementGroup, but received type {type(group)}"
        )
    if not isinstance(group, PlacementGroup) or group.is_empty:
        if index not in (-1, None):
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
        return None
    return place_in_group(group, -1 if index is None else index, bool(capture), resources, what)


def _captured(
    parent: InGroup, index: int | None, resources: Mapping[str, int], what: str
) -> InGroup:
    group = PlacementGroup(parent.group_id)
    return place_in_group(group, -1 if index is None else index, True, resources, what)
