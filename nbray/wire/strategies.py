"""How a task, actor or bundle wants its node chosen, as it travels in messages.

All are frozen and hashable: a submitter keeps a queue for each `Shape`.
"""

from __future__ import annotations

from typing import Literal, Union, get_args

import msgspec

LabelOperator = Literal["in", "!in", "exists", "!exists"]

GroupStrategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
STRATEGIES: tuple[GroupStrategy, ...] = get_args(GroupStrategy)


class LabelTerm(msgspec.Struct, array_like=True, frozen=True):
    """One condition on a node's label."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()


class Anywhere(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """DEFAULT: packed on nodes until they are half used, then spread."""


class Spread(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """SPREAD: one node after the other."""


class OnNode(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A node by its id; ``soft``: any other if that one is dead or can never serve it."""

    node_id: bytes
    soft: bool = False
    spill_on_unavailable: bool = False
    fail_on_unavailable: bool = False


class Labelled(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Nodes that meet ``hard``, those first that meet ``soft`` too."""

    hard: tuple[LabelTerm, ...]
    soft: tuple[LabelTerm, ...] = ()


class InGroup(msgspec.Struct, array_like=True, frozen=True, tag=5, gc=False):
    """A bundle of a placement group, any for -1; ``capture``: what it submits goes there too."""

    group_id: bytes
    index: int = -1
    capture: bool = False


Selectors = tuple[tuple[LabelTerm, ...], ...]
"""Conditions on a node's labels, of which one group is to be met: the first that can be."""

Strategy = Union[Anywhere, Spread, OnNode, Labelled, InGroup]  # noqa: UP007 - built once
ANYWHERE = Anywhere()


class Shape(msgspec.Struct, array_like=True, frozen=True):
    """What a task needs of a node: resources in units of 1/10000, and how it is chosen."""

    resources: tuple[tuple[str, int], ...]
    strategy: Strategy = ANYWHERE
    selector: Selectors = ()


NOTHING = Shape(())
