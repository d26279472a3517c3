"""The kinds of accelerators, and the variables by which libraries learn which devices to use."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from nbray.common.resources import MOST_UNITS, UNIT, to_units

VISIBLE_DEVICES = {
    "GPU": "CUDA_VISIBLE_DEVICES",
    "TPU": "TPU_VISIBLE_CHIPS",
    "neuron_cores": "NEURON_RT_VISIBLE_CORES",
    "NPU": "ASCEND_RT_VISIBLE_DEVICES",
    "HPU": "HABANA_VISIBLE_MODULES",
}

_MOST_DEVICES = 10_000


def node_units(resources: Mapping[str, float]) -> dict[str, int]:
    """What a node is said to have, as whole units.

    Raises:
        TypeError, ValueError: see `to_units`; or no node has so much, or so many devices, which
            are counted one by one.
    """
    units = to_units(resources)
    for name, amount in units.items():
        most = _MOST_DEVICES * UNIT if name in VISIBLE_DEVICES else MOST_UNITS - 1
        if amount > most:
            raise ValueError(
                f"A node cannot have {resources[name]} of the resource {name!r}; the most is "
                f"{most / UNIT:g}."
            )
    return units


def devices_of(
    total: Mapping[str, int], environment: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """The devices of a node, one by one: id to units.

    Args:
        total: the node's resources, in units.
        environment: where the visible-devices variables name the ids, if they do; else they are
            counted from 0.
    """
    found = {}
    for name, variable in VISIBLE_DEVICES.items():
        count, part = divmod(total.get(name, 0), UNIT)
        if count and not part:
            named = [part for part in environment.get(variable, "").split(",") if part]
            ids = named[:count] if len(named) >= count else [str(i) for i in range(count)]
            found[name] = dict.fromkeys(ids, UNIT)
    return found


class VisibleDevices:
    """The devices that this process may use, by resource name, as its raylet gave them."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}

    def use(self, ids: dict[str, list[str]], environment: MutableMapping[str, str]) -> None:
        """Use these from now on, and say so in ``environment``."""
        if ids == self.ids:
            return
        for name in self.ids.keys() - ids.keys():
            environment.pop(VISIBLE_DEVICES[name], None)
        for name, devices in ids.items():
            environment[VISIBLE_DEVICES[name]] = ",".join(devices)
        self.ids = ids
