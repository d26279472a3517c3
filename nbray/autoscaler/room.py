"""Room to lay demand out on: many units, each with so much free; by the first that fits.

What is free is kept as one array for each resource, so that a thousand units are asked at once.
A shape of which no unit ever had enough is turned away before that. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nbray.scheduling.labels import matches
from nbray.wire.strategies import LabelTerm, Selectors

_Amounts = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_NOTHING = -(1 << 62)
_LOOK_AGAIN = 32


@dataclass(frozen=True)
class Unit:
    """A node, or one that is to be: its name, and what is free there of its total."""

    name: str
    free: Mapping[str, int]
    labels: Mapping[str, str]
    total: Mapping[str, int]


class Rooms:
    """Units in their order, those with GPUs last for what needs none, and what is left of them."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units: list[Unit] = []
        self._numbers: dict[str, int] = {}
        self._used_names: dict[str, None] = {}
        self._places = 0
        self._free: dict[str, _Amounts] = {}
        self._most: dict[str, int] = {}
        self._refused = 0
        self._plain: _Mask = np.zeros(0, bool)
        self._labelled: dict[tuple[LabelTerm, ...], _Mask] = {}
        self.add(units)

    def add(self, units: Iterable[Unit]) -> None:
        """More units, behind those that there are."""
        new = list(units)
        before = len(self._units)
        self._make_places(before + len(new))
        self._units += new
        for number, unit in enumerate(new, before):
            self._numbers[unit.name] = number
            self._plain[number] = not unit.total.get("GPU")
            for terms, able in self._labelled.items():
                able[number] = matches(terms, unit.labels)
            for name, amount in unit.free.items():
                if name not in self._free:
                    self._free[name] = np.full(self._places, _NOTHING, np.int64)
                    self._most[name] = 0
                self._free[name][number] = amount
                if amount > self._most[name]:
                    self._most[name] = amount

    def _make_places(self, wanted: int) -> None:
        """Arrays long enough; where there is no unit there is less than nothing."""
        more = wanted - self._places
        if more <= 0:
            return
        more = max(more, self._places, 64)
        self._places += more
        for name, amounts in self._free.items():
            self._free[name] = np.concatenate([amounts, np.full(more, _NOTHING, np.int64)])
        self._plain = np.concatenate([self._plain, np.zeros(more, bool)])
        for terms, able in self._labelled.items():
            self._labelled[terms] = np.concatenate([able, np.zeros(more, bool)])

    def units(self) -> list[Unit]:
        """The units as they are now."""
        free = {name: amounts.tolist() for name, amounts in self._free.items()}
        return [
            Unit(unit.name, {name: free[name][n] for name in unit.free}, unit.labels, unit.total)
            for n, unit in enumerate(self._units)
        ]

    def used(self) -> list[str]:
        """The names of those on which something was laid out."""
        return list(self._used_names)

    def drop_full(self, least: Mapping[str, int]) -> None:
        """Forget the units that have less than that, which all that is laid out from now on needs.

        Nothing would ever be laid out on them; what is laid out elsewhere does not change.
        """
        count = len(self._units)
        keep = np.ones(count, bool)
        for name, amount in least.items():
            amounts = self._free.get(name)
            keep &= False if amounts is None else amounts[:count] >= amount
        kept = np.flatnonzero(keep)
        if 10 * len(kept) > 9 * count:
            return
        self._units = [self._units[n] for n in kept.tolist()]
        self._numbers = {unit.name: n for n, unit in enumerate(self._units)}
        self._places = len(kept)
        self._free = {name: amounts[kept] for name, amounts in self._free.items()}
        self._plain = self._plain[kept]
        self._labelled = {terms: able[kept] for terms, able in self._labelled.items()}

    def charge(self, name: str, resources: Mapping[str, int]) -> None:
        """Lay something out on one of them."""
        number = self._numbers[name]
        self._used_names[name] = None
        for resource, amount in resources.items():
            if amount:
                self._free[resource][number] -= amount

    def take(self, resources: Mapping[str, int], selector: Selectors, count: int) -> int:
        """Lay so many of a shape out; returns how many found no room.

        Under the first selector that helps, as `nbray.scheduling.policy` does.
        """
        needs = [(name, amount) for name, amount in resources.items() if amount]
        most = self._most
        for name, amount in needs:
            if amount > most.get(name, 0):
                return count
        if not selector:
            left = self._lay_out(needs, None, count, "GPU" in resources)
        else:
            left = count
            for terms in selector:
                if left:
                    able = self._matching(terms) if terms else None
                    left = self._lay_out(needs, able, left, "GPU" in resources)
        if left:
            self._refused += 1
            if self._refused % _LOOK_AGAIN == 0:
                for name, amounts in self._free.items():
                    most[name] = max(0, int(amounts.max()))
        return left

    def _matching(self, terms: tuple[LabelTerm, ...]) -> _Mask:
        able = self._labelled.get(terms)
        if able is None:
            able = self._labelled[terms] = np.zeros(self._places, bool)
            able[: len(self._units)] = [matches(terms, unit.labels) for unit in self._units]
        return able

    def _lay_out(
        self, needs: list[tuple[str, int]], able: _Mask | None, count: int, gpu: bool
    ) -> int:
        """Lay so many out on units that are able, the first of them first."""
        if not needs:
            there = bool(self._units) if able is None else bool(able.any())
            return 0 if there else count
        if not self._units:
            return count
        fit = able
        for name, amount in needs:
            enough = self._free[name] >= amount
            fit = enough if fit is None else fit & enough
        assert fit is not None
        first = int(fit.argmax())
        if not fit[first]:
            return count
        among = fit if gpu else fit & self._plain
        while True:
            first = int(among.argmax())
            if not among[first]:
                if among is fit:
                    return count
                among = fit
                continue
            often = 1
            if count > 1:
                often = min(int(self._free[name][first]) // amount for name, amount in needs)
            often = min(often, count)
            self._used_names[self._units[first].name] = None
            for name, amount in needs:
                self._free[name][first] -= amount * often
            count -= often
            if not count:
                return 0
            among[first] = fit[first] = False
