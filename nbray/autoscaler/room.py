"""Room to lay demand out on: many units, each with so much free; by the first that fits.

What is free is kept as one array for each resource, so that a thousand units are asked at once.
A demand that is much too large for its nodes is turned away before that for the most part: a shape
may need of nothing more than the most that any unit has which has its CPUs (`_ceilings`; there are
few different numbers of CPUs). Such a bound may be too high, as what is free becomes less, but
never too low; it is measured again when a shape got past it and found nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nbray.scheduling.labels import matches
from nbray.wire.strategies import LabelTerm, Selectors

_Amounts = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_NOTHING = -(1 << 62)
_STEP = "CPU"
_MOST_CEILINGS = 256


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
        self._ceilings: dict[int, dict[str, int]] = {}
        self._measured: dict[int, int] = {}
        self._turns = 0
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
        if self._ceilings:
            for free in {id(unit.free): unit.free for unit in new}.values():
                self._raise_ceilings(free)

    def _raise_ceilings(self, free: Mapping[str, int]) -> None:
        """A unit has come with so much free."""
        steps = free.get(_STEP, 0)
        for least, ceiling in self._ceilings.items():
            if steps >= least:
                for name, amount in free.items():
                    if amount > ceiling.get(name, 0):
                        ceiling[name] = amount

    def _measure(self, least: int) -> dict[str, int]:
        """The most that is free of each resource where there are so many CPUs."""
        if len(self._ceilings) >= _MOST_CEILINGS and least not in self._ceilings:
            return self._most
        self._measured[least] = self._turns
        steps = self._free.get(_STEP)
        if steps is None:
            ceiling = {} if least else dict(self._most)
        elif least:
            able = (steps >= least).nonzero()[0]
            ceiling = {
                name: int(amounts.take(able).max(initial=0)) for name, amounts in self._free.items()
            }
        else:  # also where there are none
            ceiling = {name: int(amounts.max(initial=0)) for name, amounts in self._free.items()}
        self._ceilings[least] = ceiling
        return ceiling

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
        self._turns += 1
        self._used_names[name] = None
        for resource, amount in resources.items():
            if amount:
                self._free[resource][number] -= amount

    def add_for(self, units: Sequence[Unit], resources: Mapping[str, int], count: int) -> int:
        """Units that come for so many of a shape, which have found no room on those that there are.

        It is laid out on the new ones; returns how many have found no room even there.
        """
        before = len(self._units)
        self.add(units)
        needs = [(name, amount) for name, amount in resources.items() if amount]
        for number, unit in enumerate(units, before):
            if not count:
                break
            often = min([unit.free.get(name, 0) // amount for name, amount in needs], default=count)
            often = min(often, count)
            if often:
                self._turns += 1
                self._used_names[unit.name] = None
                for name, amount in needs:
                    self._free[name][number] -= amount * often
                count -= often
        return count

    def take(
        self, resources: Mapping[str, int], selector: Selectors, count: int,
        more_come: bool = False,
    ) -> int:  # fmt: skip
        """Lay so many of a shape out; returns how many found no room.

        Under the first selector that helps, as `nbray.scheduling.policy` does. Where units come for
        those without room (``more_come``), bounds that are measured would not hold for long.
        """
        step = resources.get(_STEP, 0)
        ceiling = self._ceilings.get(step)
        if ceiling is None:
            ceiling = self._measure(step)
        for name, amount in resources.items():
            if amount > ceiling.get(name, 0):
                return count
        needs = [(name, amount) for name, amount in resources.items() if amount]
        if not selector:
            left = self._lay_out(needs, None, count, "GPU" in resources)
        else:
            left = count
            for terms in selector:
                if left:
                    able = self._matching(terms) if terms else None
                    left = self._lay_out(needs, able, left, "GPU" in resources)
        if left and not more_come and self._measured.get(step) != self._turns:
            self._measure(step)
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
            self._turns += 1
            self._used_names[self._units[first].name] = None
            for name, amount in needs:
                self._free[name][first] -= amount * often
            count -= often
            if not count:
                return 0
            among[first] = fit[first] = False
