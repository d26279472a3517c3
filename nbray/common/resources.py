"""Resource arithmetic in whole units of 1/10000, so that fractions add up exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from nbray.common.text import check_text

UNIT = 10_000


MOST_UNITS = 1 << 61
"""More than any node has (230 TB of memory): a request for more is one for so much, and waits."""


def to_units(resources: Mapping[str, float]) -> dict[str, int]:
    """Amounts as whole units, without zeros; at most `MOST_UNITS`.

    Raises:
        TypeError: an amount is no number, or a name no text.
        ValueError: an amount is negative, not finite, or finer than 1/10000; or a name cannot be.
    """
    units: dict[str, int] = {}
    for name, amount in resources.items():
        known = check_amount(name, amount)
        if amount:
            units[known] = min(round(amount * UNIT), MOST_UNITS)
    return units


def check_amount(name: object, amount: object) -> str:
    """The name of a resource of which ``amount`` is one.

    Raises:
        TypeError, ValueError: see `to_units`.
    """
    if not isinstance(name, str):
        raise TypeError(f"The name of a resource is a str, not {type(name).__name__}: {name!r}.")
    known = check_text("The name of a resource", name)
    if not isinstance(amount, int | float):
        raise TypeError(
            f"The quantity of resource {name} must be a number, not {type(amount).__name__}"
        )
    if isinstance(amount, float) and not math.isfinite(amount):
        raise ValueError(f"The quantity of resource {name} must be a number, not {amount}")
    if amount < 0:
        raise ValueError(f"The quantity of resource {name} cannot be negative")
    if 0 < amount < 1 / UNIT:
        raise ValueError(
            f"The precision of the fractional quantity of resource {name} cannot go beyond "
            f"{1 / UNIT}"
        )
    return known


def from_units(units: Mapping[str, int]) -> dict[str, float]:
    """Units as amounts."""
    return {name: value / UNIT for name, value in units.items()}


def fits(demand: Mapping[str, int], available: Mapping[str, int]) -> bool:
    """Whether ``available`` covers ``demand``."""
    return all(available.get(name, 0) >= amount for name, amount in demand.items())


def total_of(amounts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of all of them."""
    total: dict[str, int] = {}
    for one in amounts:
        add(total, one)
    return total


def subtract(available: dict[str, int], demand: Mapping[str, int]) -> None:
    """Take ``demand`` out of ``available``, which may become negative while workers block."""
    for name, amount in demand.items():
        available[name] = available.get(name, 0) - amount


def add(available: dict[str, int], demand: Mapping[str, int]) -> None:
    """Put ``demand`` back."""
    for name, amount in demand.items():
        available[name] = available.get(name, 0) + amount
