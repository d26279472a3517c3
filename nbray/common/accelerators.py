"""The kinds of accelerators, and the variables by which libraries learn which devices to use."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from nbray.common.resources import UNIT

VISIBLE_DEVICES = {
    "GPU": "CUDA_VISIBLE_DEVICES",
    "TPU": "TPU_VISIBLE_CHIPS",
    "neuron_cores": "NEURON_RT_VISIBLE_CORES",
    "NPU": "ASCEND_RT_VISIBLE_DEVICES",
    "HPU": "HABANA_VISIBLE_MODULES",
}


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
