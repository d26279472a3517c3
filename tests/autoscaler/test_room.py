"""Room to lay demand out on: whatever its bounds turn away, a look at every unit would, too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nbray.autoscaler.room import Rooms, Unit

AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "memory", "GPU", "x"]), st.integers(0, 9))
ACTS = st.one_of(
    st.tuples(st.just("take"), AMOUNTS, st.integers(1, 4)),
    st.tuples(st.just("add"), AMOUNTS, st.integers(1, 3)),
    st.tuples(st.just("come"), st.tuples(AMOUNTS, AMOUNTS), st.integers(1, 3)),
)


class Plain:
    """The same by a look at every unit, the first that fits, those with GPUs last."""

    def __init__(self) -> None:
        self.units: list[Unit] = []

    def take(self, shape: dict[str, int], count: int) -> int:
        needs = {name: amount for name, amount in shape.items() if amount}
        if not needs:
            return 0 if self.units else count
        order = sorted(
            range(len(self.units)),
            key=lambda n: "GPU" not in shape and bool(self.units[n].total.get("GPU")),
        )
        for number in order:
            unit = self.units[number]
            while count and all(unit.free.get(name, -1) >= needs[name] for name in needs):
                left = {name: free - needs.get(name, 0) for name, free in unit.free.items()}
                unit = self.units[number] = replace(unit, free=left)
                count -= 1
        return count


@settings(max_examples=300)
@given(st.lists(ACTS, max_size=40))
def test_what_finds_room_and_where_is_what_a_look_at_every_unit_finds(
    acts: list[tuple[str, Any, Any]],
) -> None:
    rooms, plain = Rooms([]), Plain()
    for act, amounts, count in acts:
        if act == "take":
            assert rooms.take(amounts, (), count) == plain.take(amounts, count)
        elif act == "add":
            first = len(plain.units)
            new = [Unit(f"{first + n}", amounts, {}, amounts) for n in range(count)]
            rooms.add(new)
            plain.units += new
        else:  # units come for what found no room
            shape, has = amounts
            left = rooms.take(shape, (), count, more_come=True)
            assert left == plain.take(shape, count)
            new = [Unit(f"{len(plain.units) + n}", has, {}, has) for n in range(left)]
            plain.units += new
            assert rooms.add_for(new, shape, left) == (plain.take(shape, left) if left else 0)
        assert {unit.name: unit.free for unit in rooms.units()} == {
            unit.name: unit.free for unit in plain.units
        }


@settings(max_examples=100)
@given(st.lists(AMOUNTS, max_size=20), st.lists(AMOUNTS, min_size=1, max_size=20))
def test_units_that_are_too_full_for_all_that_follows_may_be_forgotten(
    units: list[dict[str, int]], shapes: list[dict[str, int]]
) -> None:
    least = {name: min(shape.get(name, 0) for shape in shapes) for name in shapes[0]}
    rooms, plain = Rooms([]), Plain()
    for number, amounts in enumerate(units):
        unit = Unit(str(number), amounts, {}, amounts)
        rooms.add([unit])
        plain.units.append(unit)
    for shape in shapes:
        if any(shape.values()):
            rooms.drop_full({name: amount for name, amount in least.items() if amount})
            assert rooms.take(shape, (), 2) == plain.take(shape, 2)
