"""Resources that can be taken and given back: a node's, or those of a bundle.

Accelerators are counted one by one as well, since half of one device and half of another do not
make a whole one. A bundle is an allocation of its node and a set of its own; when it is released
while something in it is still in use, what comes back later goes to a set nobody takes from.

Invariant: what is available and what is allocated add up to the total, resource by resource and
device by device. Available is never negative, but for CPUs that were lent while a task blocked
and are taken back.
"""

from __future__ import annotations

from collections.abc import Mapping

from nbray.common.resources import UNIT, add, fits, subtract

Devices = dict[str, dict[str, int]]
"""By resource name: device id to units of it."""


class ResourceSet:
    """See the head of this module."""

    def __init__(self, total: Mapping[str, int], devices: Devices | None = None) -> None:
        self.total = dict(total)
        self.available = dict(total)
        self.retired = False
        self._devices = {name: dict(ids) for name, ids in (devices or {}).items()}

    def take(self, demand: Mapping[str, int]) -> Allocation | None:
        """Take ``demand`` out; None when it is not there now."""
        if not fits(demand, self.available):
            return None
        devices: Devices = {}
        for name, free in self._devices.items():
            if demand.get(name):
                found = _devices_for(demand[name], free)
                if found is None:
                    return None
                devices[name] = found
        for name, found in devices.items():
            subtract(self._devices[name], found)
        subtract(self.available, demand)
        return Allocation(self, dict(demand), devices)

    def give(self, amounts: Mapping[str, int], devices: Devices) -> None:
        """Only for `Allocation`: put it back."""
        add(self.available, amounts)
        for name, ids in devices.items():
            add(self._devices[name], ids)


def _devices_for(amount: int, free: Mapping[str, int]) -> dict[str, int] | None:
    """Whole devices for the whole part; the fullest one that suffices for the fraction."""
    whole, fraction = divmod(amount, UNIT)
    found = {device: UNIT for device in [d for d in free if free[d] == UNIT][:whole]}
    if len(found) < whole:
        return None
    if fraction:
        able = [d for d in free if d not in found and free[d] >= fraction]
        if not able:
            return None
        found[min(able, key=lambda d: free[d])] = fraction
    return found


class Allocation:
    """What was taken of a set. It goes back once, however often `free` is called."""

    __slots__ = ("_freed", "_lent", "amounts", "devices", "source")

    def __init__(self, source: ResourceSet, amounts: dict[str, int], devices: Devices) -> None:
        self.source = source
        self.amounts = amounts
        self.devices = devices
        self._lent = 0
        self._freed = False

    def free(self) -> None:
        """Give back what is not lent already."""
        if not self._freed:
            self._freed = True
            amounts = dict(self.amounts)
            if self._lent:
                amounts["CPU"] -= self._lent
            self.source.give(amounts, self.devices)

    def lend(self) -> None:
        """Others may use its CPUs for a while."""
        cpus = self.amounts.get("CPU", 0)
        if cpus and not self._lent and not self._freed:
            self._lent = cpus
            add(self.source.available, {"CPU": cpus})

    def take_back(self) -> None:
        """The CPUs are used again, also when that makes the set's negative for a while."""
        if self._lent and not self._freed:
            subtract(self.source.available, {"CPU": self._lent})
            self._lent = 0

    def in_use(self) -> dict[str, int]:
        """What comes back when it is freed, without what is lent."""
        if not self._lent:
            return self.amounts
        return {**self.amounts, "CPU": self.amounts["CPU"] - self._lent}

    def device_ids(self) -> dict[str, list[str]]:
        """The ids of its devices by resource name."""
        return {name: list(ids) for name, ids in self.devices.items()}

    def as_set(self) -> ResourceSet:
        """What a bundle hands out."""
        return ResourceSet(self.amounts, self.devices)
