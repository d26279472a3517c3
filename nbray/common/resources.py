"""Resource arithmetic in whole units of 1/10000, so that fractions add up exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

UNIT = 10_000


def to_units(resources: Mapping[str, float]) -> dict[str, int]:
    """Amounts as whole units, without zeros.

    Raises:
        ValueError: an amount is negative, or finer than 1/10000.
    """
    units: dict[str, int] = {}
    for name, amount in resources.items():
        if amount < 0:
            raise ValueError(f"The amount of resource {name!r} must not be negative: {amount}.")
        value = round(amount * UNIT)
        if amount and not value:
            raise ValueError(f"Resource {name!r}: {amount} is finer than 1/{UNIT}.")
        if value:
            units[name] = value
    return units


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
