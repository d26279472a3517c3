"""How many nodes of which type there are to be: a pure function of what there is and what waits.

A plan is made anew at every look, of one snapshot. Demand is laid out on the nodes that there are,
those on their way included, in a fixed order; what finds no room is laid out on new nodes, which
are launched; a node on which nothing was laid and which has been idle for long enough is drained.

Why it settles. Everything is laid out by the first unit that fits, in an order that does not depend
on what is left out. So a node without a share of the demand can go, and the next plan, made of the
same demand without it, lays everything out as before and launches nothing; and a node that was
launched is there in the next plan with the room that it was launched for.

The order of units: those with work first, since idle ones shall be free to go; nodes with GPUs
last for what needs none; then by name. The order of demand: what `request_resources` asked for,
placement groups, then what needs GPUs, then the largest. A new node is of the type that fits the
first of the demand's label selectors that any fits, as the layout prefers it. Of these it is the
one that wastes least: of the highest priority, without a GPU if none is needed, the one of which
most is used.

What has to be: never more than `max_workers` of a type, or of all types together, counting also
those that drain, since they are still there; never less than `min_workers`. How many may be on
their way at once is bounded for what waits (`upscaling_speed`), not for what is to be there always.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from nbray.autoscaler.model import (
    Ask,
    Drain,
    GroupAsk,
    Here,
    Launch,
    Plan,
    Rules,
    TypeRules,
    Wanted,
)
from nbray.autoscaler.room import Rooms, Unit
from nbray.common.resources import fits, from_units
from nbray.scheduling.bundles import Bundle, place
from nbray.scheduling.labels import matches, term_text
from nbray.wire.records import NodeInfo

_AT_ONCE = 5
_PENDING_KEPT_S = 30.0
_MOST_SAID = 20
_TIDY_EVERY = 256
_AMOUNT_BITS = 96
_COME_ALONG = ("memory", "object_store_memory")


def plan(rules: Rules, here: Sequence[Here], wanted: Wanted, now: float) -> Plan:
    """Decide what is launched and drained; see the head of this module.

    Args:
        rules: types and bounds.
        here: every node and every instance there is.
        wanted: the demand.
        now: seconds since the epoch.
    """
    return _Planning(rules, here, wanted, now).run()


class _Planning:
    """One plan on its way."""

    def __init__(self, rules: Rules, here: Sequence[Here], wanted: Wanted, now: float) -> None:
        self._rules = rules
        self._here = here
        self._wanted = wanted
        self._now = now
        self._drain: dict[str, Drain] = {}
        self._kept: dict[str, list[str]] = {one.id: list(one.kept_by) for one in here}
        self._unmet: list[str] = []
        self._left: list[tuple[Ask, int]] = []
        self._new: dict[str, int] = dict.fromkeys(rules.types, 0)
        self._why: dict[str, str] = {}
        self._count: dict[str, int] = dict.fromkeys(rules.types, 0)
        self._running: dict[str, int] = dict.fromkeys(rules.types, 0)
        self._coming: dict[str, int] = dict.fromkeys(rules.types, 0)
        self._all = 0
        self._all_new = 0
        for one in here:
            if one.type:
                self._all += 1
                self._count[one.type] = self._count.get(one.type, 0) + 1
                counts = self._running if one.joined else self._coming
                counts[one.type] = counts.get(one.type, 0) + 1

    def run(self) -> Plan:
        self._leave_what_must()
        stays = [one for one in self._here if not one.drains and one.id not in self._drain]
        stays.sort(key=lambda one: (not one.joined, one.joined and not one.kept_by, one.id))
        self._stays = stays
        self._fill_up()
        self._lay_out_requested()
        self._lay_out_waiting()
        self._let_idle_go()
        self._say_what_is_left()
        launched = tuple(
            Launch(name, count, self._why[name]) for name, count in self._new.items() if count
        )
        kept = {name: tuple(words) for name, words in self._kept.items()}
        return Plan(launched, tuple(self._drain.values()), kept, tuple(self._unmet))

    # --- who has to go --------------------

    def _leave_what_must(self) -> None:
        """Nodes whose place ends, whose type is gone, or that are too many by the file."""
        mine = [one for one in self._here if one.type]
        for one in mine:
            if one.drains:
                continue
            if one.ends is not None and one.ends - self._now < self._rules.ends_s:
                left = max(1.0, one.ends - self._now - 5.0)
                why = f"its place ends it in {one.ends - self._now:.0f} s"
                self._drain[one.id] = Drain(one.id, why, False, left)
            elif one.type not in self._rules.types:
                why = f"the file has no node type {one.type} any more"
                self._drain[one.id] = Drain(one.id, why, False)
        for name, rule in self._rules.types.items():
            same = [one for one in mine if one.type == name]
            self._reduce(same, len(same) - rule.most, f"max_workers of {name} is {rule.most}")
        self._reduce(mine, len(mine) - self._rules.most, f"max_workers is {self._rules.most}")

    def _reduce(self, among: Sequence[Here], surplus: int, why: str) -> None:
        """Drain so many: those that have not joined first, then those that are idle longest."""
        surplus -= sum(one.drains or one.id in self._drain for one in among)
        if surplus <= 0:
            return
        able = [one for one in among if not one.drains and one.id not in self._drain]
        able.sort(key=lambda one: (one.joined, bool(one.kept_by), -one.idle_s, one.id))
        for one in able[:surplus]:
            self._drain[one.id] = Drain(one.id, why, False)

    # --- who is to come --------------------

    def _room_left(self, name: str) -> int:
        rule = self._rules.types[name]
        if rule.not_before > self._now:
            return 0
        of_type = rule.most - self._count[name] - self._new[name]
        of_all = self._rules.most - self._all - self._all_new
        return max(0, min(of_type, of_all))

    def _launch(self, name: str, count: int, why: str) -> None:
        self._new[name] += count
        self._all_new += count
        self._why.setdefault(name, why)

    def _fill_up(self) -> None:
        """As many of each type as there are to be at least."""
        for name, rule in self._rules.types.items():
            there = sum(one.type == name for one in self._stays)
            lacking = min(rule.least - there, self._room_left(name))
            if lacking > 0:
                self._launch(name, lacking, f"min_workers of {name} is {rule.least}")

    def _rooms(self, *, empty: bool) -> Rooms:
        """What there is to lay demand out on: free, or ``empty`` as if nothing were in use."""
        units = [
            Unit(one.id, one.total if empty else one.available, one.labels, one.total)
            for one in self._stays
        ]
        units += [
            Unit(f"{name} {number}", rule.resources, rule.labels, rule.resources)
            for name, rule in self._rules.types.items()
            for number in range(self._new[name])
        ]
        return Rooms(units)

    def _may_come(self, name: str, *, bounded: bool) -> int:
        """How many more of a type may be launched now."""
        room = self._room_left(name)
        if bounded:
            quick = max(_AT_ONCE, math.ceil(self._rules.speed * self._running[name]))
            room = min(room, quick - self._coming[name] - self._new[name])
        return max(0, room)

    def _lay_out_requested(self) -> None:
        """What programs asked to have: on what nodes have at all, whether it is in use or not."""
        if not self._wanted.requested:
            return
        rooms = self._rooms(empty=True)
        self._lay_out(rooms, self._wanted.requested, bounded=False, what="request_resources")
        for name in rooms.used():
            self._keep(name, "request_resources asked for it")

    def _lay_out_waiting(self) -> None:
        rooms = self._rooms(empty=False)
        for group in self._wanted.groups:
            self._lay_out_group(rooms, group)
        self._lay_out(rooms, self._wanted.asks, bounded=True, what="what waits")
        for name in rooms.used():
            self._keep(name, "what waits is going to run on it")

    def _keep(self, name: str, why: str) -> None:
        if name in self._kept:
            self._kept[name].append(why)

    def _lay_out(self, rooms: Rooms, asks: Sequence[Ask], *, bounded: bool, what: str) -> None:
        """Lay demand out, on new nodes where there is no room."""
        open_types = self._open_types(bounded)
        least = _least(asks)
        for number, ask in enumerate(sorted(asks, key=_size, reverse=True)):
            if number % _TIDY_EVERY == 0:
                rooms.drop_full(least)
            left = rooms.take(ask.resources, ask.selector, ask.count, more_come=bool(open_types))
            if left and open_types:
                able = [rule for rule in open_types if _serves(rule, ask)]
                if len(able) > 1:
                    able.sort(key=lambda rule: (_choice(rule, ask), _waste(rule, ask)))
                for rule in able:
                    left = self._launch_for(rooms, rule, ask, left, bounded, what)
                    if not self._may_come(rule.name, bounded=bounded):
                        open_types = self._open_types(bounded)
                    if not left:
                        break
            if left:
                self._left.append((ask, left))

    def _open_types(self, bounded: bool) -> list[TypeRules]:
        """The types of which more may be launched now."""
        return [
            rule for name, rule in self._rules.types.items()
            if self._may_come(name, bounded=bounded)
        ]  # fmt: skip

    def _launch_for(
        self, rooms: Rooms, rule: TypeRules, ask: Ask, left: int, bounded: bool, what: str
    ) -> int:
        """Launch nodes of a type for what found no room; returns for how many there were none."""
        per_node = max(1, _how_often(ask.resources, rule.resources))
        needed = math.ceil(left / per_node)
        count = min(needed, self._may_come(rule.name, bounded=bounded))
        if count <= 0:
            return left
        first = self._new[rule.name]
        if not first:
            self._why[rule.name] = f"{what}: {_shape(ask)}"
        self._new[rule.name] += count
        self._all_new += count
        units = [
            Unit(f"{rule.name} {number}", rule.resources, rule.labels, rule.resources)
            for number in range(first, first + count)
        ]
        return rooms.add_for(units, ask.resources, left)

    def _say_what_is_left(self) -> None:
        """Why some of the demand gets no node, in sentences: of the most wanted shapes."""
        for ask, left in heapq.nlargest(_MOST_SAID, self._left, key=itemgetter(1)):
            able = [rule for rule in self._rules.types.values() if _serves(rule, ask)]
            self._unmet.append(f"{left} x {_shape(ask)}: {self._why_not(able)}")
        if len(self._left) > _MOST_SAID:
            self._unmet.append(f"So it is with {len(self._left) - _MOST_SAID} other shapes.")

    def _why_not(self, able: Sequence[TypeRules]) -> str:
        if not able:
            return "no node type of the file can serve it."
        names = ", ".join(rule.name for rule in able)
        if all(rule.not_before > self._now for rule in able):
            return f"the last nodes of {names} failed; it is tried again."
        if all(self._room_left(rule.name) == 0 for rule in able):
            return f"there are as many nodes of {names} as may be."
        return f"more nodes of {names} follow when these have come."

    def _lay_out_group(self, rooms: Rooms, group: GroupAsk) -> None:
        """A placement group: all of its bundles, or none."""
        bundles = dict(enumerate(group.bundles))
        elsewhere = [_key(name) for name in group.elsewhere]
        if group.strategy == "STRICT_PACK" and group.elsewhere:
            return  # only the node that has the others can serve it
        rows = _rows(rooms.units())
        placed = place(bundles, group.strategy, rows, elsewhere=elsewhere)
        if placed is None:
            fresh: list[tuple[str, Unit]] = []
            for name in self._for_group(group):
                for number in range(min(self._may_come(name, bounded=False), len(bundles))):
                    rule = self._rules.types[name]
                    unit = Unit(
                        f"{name} {self._new[name] + number}",
                        rule.resources, rule.labels, rule.resources,
                    )  # fmt: skip
                    fresh.append((name, unit))
            placed = self._smallest(bundles, group, rooms, elsewhere, fresh)
            if placed is None:
                self._unmet.append(f"Placement group {group.name}: no nodes that may come suffice.")
                return
        for index, node_id in placed.items():
            rooms.charge(node_id.decode(), bundles[index].resources)

    def _for_group(self, group: GroupAsk) -> list[str]:
        """The types that can hold a bundle of it, those that waste least first."""
        whole: dict[str, int] = {}
        for bundle in group.bundles:
            for name, amount in bundle.resources.items():
                whole[name] = whole.get(name, 0) + amount
        one = group.strategy == "STRICT_PACK"
        asks = [Ask(whole)] if one else [Ask(b.resources, 1, (b.selector,)) for b in group.bundles]
        able = [r for r in self._rules.types.values() if any(_serves(r, ask) for ask in asks)]
        able.sort(key=lambda rule: min(_waste(rule, ask) for ask in asks if _serves(rule, ask)))
        return [rule.name for rule in able]

    def _smallest(
        self, bundles: Mapping[int, Bundle], group: GroupAsk, rooms: Rooms,
        elsewhere: Sequence[bytes], fresh: Sequence[tuple[str, Unit]],
    ) -> dict[int, bytes] | None:  # fmt: skip
        """Place a group with as few of the fresh units as do it, which are launched."""

        def tried(units: Sequence[tuple[str, Unit]]) -> dict[int, bytes] | None:
            rows = _rows([*rooms.units(), *(unit for _name, unit in units)])
            return place(bundles, group.strategy, rows, elsewhere=elsewhere)

        fresh = self._within(fresh)
        if tried(fresh) is None:
            return None
        low, high = 1, len(fresh)
        while low < high:  # the fewest of the best types, when these alone do it
            middle = (low + high) // 2
            if tried(fresh[:middle]) is None:
                low = middle + 1
            else:
                high = middle
        chosen = list(fresh[:low])
        for pair in list(chosen):  # a unit of an earlier type may not be needed
            without = [other for other in chosen if other is not pair]
            if without and tried(without) is not None:
                chosen = without
        numbered: list[Unit] = []
        for name, unit in chosen:
            numbered.append(
                Unit(f"{name} {self._new[name]}", unit.free, unit.labels, unit.total)
            )  # fmt: skip
            self._launch(name, 1, f"placement group {group.name}")
        rooms.add(numbered)
        return place(bundles, group.strategy, _rows(rooms.units()), elsewhere=elsewhere)

    def _within(self, fresh: Sequence[tuple[str, Unit]]) -> list[tuple[str, Unit]]:
        """No more than may be launched of all types together."""
        return list(fresh[: max(0, self._rules.most - self._all - self._all_new)])

    # --- who may go --------------------

    def _let_idle_go(self) -> None:
        count = {name: 0 for name in self._rules.types}
        for one in self._stays:
            if one.type in count:
                count[one.type] += 1
        for one in sorted(self._stays, key=lambda one: (-one.idle_s, one.id)):
            rule = self._rules.types.get(one.type)
            if rule is None or self._kept[one.id]:
                continue
            if count[one.type] <= rule.least:
                self._keep(one.id, f"min_workers of {one.type} is {rule.least}")
                continue
            if not one.joined:
                if one.waits and one.idle_s >= min(rule.idle_s, _PENDING_KEPT_S):
                    self._drain[one.id] = Drain(one.id, "nothing waits for it any more")
                    count[one.type] -= 1
                continue
            if one.idle_s < rule.idle_s:
                self._keep(one.id, f"idle for {one.idle_s:.0f} of {rule.idle_s:g} s")
            elif one.may_drain > self._now:
                self._keep(one.id, "it had work when it was to leave")
            else:
                self._drain[one.id] = Drain(one.id, f"idle for {one.idle_s:.0f} s")
                count[one.type] -= 1


def _size(ask: Ask) -> int:
    """The order of demand: what is hard to place first.

    That is what needs GPUs, then what needs many kinds of things, then much of one: in one number,
    which is compared faster than three.
    """
    resources = ask.resources
    most = max(resources.values()) if resources else 0
    return ((("GPU" in resources) << 16) + len(resources) << _AMOUNT_BITS) + most


def _least(asks: Sequence[Ask]) -> dict[str, int]:
    """What every one of them needs of a node."""
    if not asks:
        return {}
    least = {name: min([ask.resources.get(name, 0) for ask in asks]) for name in asks[0].resources}
    return {name: amount for name, amount in least.items() if amount}


def _serves(rule: TypeRules, ask: Ask) -> bool:
    return (
        rule.most > 0
        and fits(ask.resources, rule.resources)
        and (not ask.selector or any(matches(terms, rule.labels) for terms in ask.selector))
    )


def _choice(rule: TypeRules, ask: Ask) -> int:
    """Which of its label selectors, from which it takes the first that it can, a type fits."""
    fit = (number for number, terms in enumerate(ask.selector) if matches(terms, rule.labels))
    return next(fit, len(ask.selector))


def _waste(rule: TypeRules, ask: Ask) -> tuple[int, bool, float, str]:
    """How badly a type suits: the smallest is the best."""
    resources, wanted = rule.resources, ask.resources
    gpu = "GPU" in resources and "GPU" not in wanted
    used, names = 0.0, 0
    for name, amount in resources.items():
        if amount and name not in _COME_ALONG:
            names += 1
            used += min(1.0, wanted.get(name, 0) * ask.count / amount)
    return -rule.priority, gpu, -used / names if names else 0.0, rule.name


def _how_often(demand: Mapping[str, int], total: Mapping[str, int]) -> int:
    often = [total.get(name, 0) // amount for name, amount in demand.items() if amount]
    return min(often, default=1)


def _shape(ask: Ask) -> str:
    text = str(from_units(ask.resources))
    labels = [", ".join(map(term_text, terms)) for terms in ask.selector if terms]
    return text + (f" with labels {' or '.join(labels)}" if labels else "")


def _key(name: str) -> bytes:
    return name.encode()


def _rows(units: Iterable[Unit]) -> list[NodeInfo]:
    """Units as rows of a node table, for `place`."""
    return [
        NodeInfo(
            _key(unit.name), "", 0, 0, "", False, True, dict(unit.total), dict(unit.free),
            labels=dict(unit.labels),
        )
        for unit in units
    ]  # fmt: skip
