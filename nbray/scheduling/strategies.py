"""The values of the option ``scheduling_strategy``, besides "DEFAULT" and "SPREAD"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from nbray.common.ids import NodeID
from nbray.common.text import check_text, plain
from nbray.wire.strategies import Labelled, LabelTerm, OnNode


class Group(Protocol):
    """A placement group, as far as a strategy knows it."""

    @property
    def is_empty(self) -> bool:
        """Whether it is no group."""


class PlacementGroupSchedulingStrategy:
    """Run in a bundle of a placement group.

    Args:
        placement_group: the group; None or `PlacementGroup.empty()` for outside all groups.
        placement_group_bundle_index: which bundle; -1 for any.
        placement_group_capture_child_tasks: what it submits runs in the group, too.

    Examples:
        >>> from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
        >>> group = nbray.util.placement_group([{"CPU": 1}])
        >>> strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        >>> nbray.get(nbray.remote(abs).options(scheduling_strategy=strategy).remote(-1))
        1
        >>> nbray.util.remove_placement_group(group)
    """

    def __init__(
        self,
        placement_group: Group | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeAffinitySchedulingStrategy:
    """Run on one node.

    Args:
        node_id: its id as hexadecimal text.
        soft: run elsewhere when the node is dead or can never serve it, instead of failing with
            `TaskUnschedulableError` or `ActorUnschedulableError`.
        _spill_on_unavailable: with ``soft``, run elsewhere also when the node is busy.
        _fail_on_unavailable: without ``soft``, fail when the node is busy.

    Raises:
        ValueError: ``node_id`` is no node id.

    Examples:
        >>> from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        >>> here = nbray.get_runtime_context().get_node_id()
        >>> @nbray.remote(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
        ... def where():
        ...     return nbray.get_runtime_context().get_node_id()
        >>> nbray.get(where.remote()) == here
        True
    """

    def __init__(
        self,
        node_id: str,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        self.node_id = node_id.hex() if isinstance(node_id, NodeID) else node_id
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable
        wrong = (
            f"Invalid node_id '{self.node_id}'. Node ID must be a valid hex string. "
            "To get a list of all nodes and their IDs in your cluster, use nbray.nodes()."
        )
        if not isinstance(self.node_id, str):
            raise ValueError(wrong)
        try:
            found = NodeID.from_hex(self.node_id).binary()
        except ValueError as error:
            raise ValueError(wrong) from error
        if found == b"\xff" * NodeID.SIZE:
            raise ValueError(wrong)
        if _spill_on_unavailable and not soft:
            raise ValueError(
                "_spill_on_unavailable cannot be set when soft is False. "
                "Please set soft to True to use _spill_on_unavailable."
            )
        if _fail_on_unavailable and soft:
            raise ValueError(
                "_fail_on_unavailable cannot be set when soft is True. "
                "Please set soft to False to use _fail_on_unavailable."
            )

    def on_wire(self) -> OnNode:
        """As it travels."""
        return OnNode(
            bytes.fromhex(self.node_id), self.soft, self._spill_on_unavailable,
            self._fail_on_unavailable,
        )  # fmt: skip


class _Values:
    def __init__(self, *values: str) -> None:
        name = type(self).__name__
        if not values:
            raise ValueError(
                f"The variadic parameter of the {name} operator must be a non-empty tuple: "
                f'e.g. {name}("value1", "value2").'
            )
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(
                    f"Type of value in position {index} for the {name} operator must be str "
                    f'(e.g. {name}("value1", "value2")) but got {value!s} of type {type(value)}.'
                )
            if value:
                check_text("The value of a label", value)
        self.values = list(map(plain, values))


class In(_Values):
    """The label is one of the values.

    Args:
        values: texts, at least one.

    Examples:
        >>> from nbray.util.scheduling_strategies import In
        >>> In("A100", "H100").values
        ['A100', 'H100']
    """


class NotIn(_Values):
    """The label is missing or none of the values.

    Args:
        values: texts, at least one.

    Examples:
        >>> from nbray.util.scheduling_strategies import NotIn
        >>> NotIn("spot").values
        ['spot']
    """


class Exists:
    """The node has the label.

    Examples:
        >>> from nbray.util.scheduling_strategies import Exists, NodeLabelSchedulingStrategy
        >>> strategy = NodeLabelSchedulingStrategy(hard={}, soft={"disk": Exists()})
    """


class DoesNotExist:
    """The node does not have the label.

    Examples:
        >>> from nbray.util.scheduling_strategies import DoesNotExist, NodeLabelSchedulingStrategy
        >>> strategy = NodeLabelSchedulingStrategy(hard={"reserved": DoesNotExist()})
    """


LabelConditions = Mapping[str, "In | NotIn | Exists | DoesNotExist"]


class NodeLabelSchedulingStrategy:
    """Run on nodes by their labels.

    Args:
        hard: conditions that a node must meet.
        soft: conditions that it should meet.

    Raises:
        ValueError: both are empty, or a condition is none.

    Examples:
        >>> from nbray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn
        >>> strategy = NodeLabelSchedulingStrategy(hard={"market-type": NotIn("spot")})
        >>> nbray.get(nbray.remote(abs).options(scheduling_strategy=strategy).remote(-1))
        1
    """

    def __init__(self, hard: LabelConditions | None, *, soft: LabelConditions | None = None):
        self.hard = _terms(hard, "hard")
        self.soft = _terms(soft, "soft")
        if not self.hard and not self.soft:
            raise ValueError(
                "The `hard` and `soft` parameter of NodeLabelSchedulingStrategy cannot both be "
                "empty."
            )

    def on_wire(self) -> Labelled:
        """As it travels."""
        return Labelled(self.hard, self.soft)


def _terms(conditions: LabelConditions | None, name: str) -> tuple[LabelTerm, ...]:
    if conditions is None:
        return ()
    if not isinstance(conditions, Mapping):
        raise ValueError(
            f'The {name} parameter must be a map (e.g. {{"key1": In("value1")}}) '
            f"but got type {type(conditions)}."
        )
    terms = []
    for key, condition in conditions.items():
        if not isinstance(key, str):
            raise ValueError(
                f"The map key of the {name} parameter must be of type str "
                f'(e.g. {{"key1": In("value1")}}) but got {key!s} of type {type(key)}.'
            )
        key = check_text("The key of a label", key)
        match condition:
            case In():
                terms.append(LabelTerm(key, "in", tuple(condition.values)))
            case NotIn():
                terms.append(LabelTerm(key, "!in", tuple(condition.values)))
            case Exists():
                terms.append(LabelTerm(key, "exists"))
            case DoesNotExist():
                terms.append(LabelTerm(key, "!exists"))
            case _:
                raise ValueError(
                    f"The map value for key {key} of the {name} parameter must be one of the "
                    '`In`, `NotIn`, `Exists` or `DoesNotExist` operator (e.g. {"key1": '
                    f'In("value1")}}) but got {condition!s} of type {type(condition)}.'
                )
    return tuple(terms)
