"""The kinds of accelerators, and the variables by which libraries learn which devices to use."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, MutableMapping, Sequence

from nbray.common.resources import MOST_UNITS, UNIT, to_units

ACCELERATOR_TYPE = "accelerator_type:"
"""How the name of a resource begins that says which kind a node has."""

VISIBLE_DEVICES = {
    "GPU": "CUDA_VISIBLE_DEVICES",
    "TPU": "TPU_VISIBLE_CHIPS",
    "neuron_cores": "NEURON_RT_VISIBLE_CORES",
    "NPU": "ASCEND_RT_VISIBLE_DEVICES",
    "HPU": "HABANA_VISIBLE_MODULES",
    "RBLN": "RBLN_DEVICES",
    "FURIOSA": "FURIOSA_DEVICES",
    "TTNPU": "TT_VISIBLE_DEVICES",
    "MBLT": "QBRUNTIME_VISIBLE_DEVICES",
}
# GPUs of AMD and of Intel: set beside NVIDIA's where the variable, or the driver's file, is.
_OF_OTHER_VENDORS = {"GPU": {"HIP_VISIBLE_DEVICES": "/dev/kfd", "ZE_AFFINITY_MASK": ""}}
_NOSET = "RAY_EXPERIMENTAL_NOSET_"  # by which programs for Ray say that they choose themselves

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
            named: list[str] = []
            for one in (variable, *_OF_OTHER_VENDORS.get(name, ())):
                named = named or [part for part in environment.get(one, "").split(",") if part]
            ids = named[:count] if len(named) >= count else [str(i) for i in range(count)]
            found[name] = dict.fromkeys(ids, UNIT)
    return found


DeviceIds = tuple[tuple[str, tuple[str, ...]], ...]


def as_key(devices: Mapping[str, Sequence[str]]) -> DeviceIds:
    """Devices as a key: processes that were given the same may stand for each other."""
    return tuple(sorted((name, tuple(ids)) for name, ids in devices.items() if ids))


class VisibleDevices:
    """The devices that this process may use, by resource name, as its raylet gave them.

    Attributes:
        ids: by resource name.
        set_by_user: variables that the runtime environment sets, which stay what they are.
    """

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}
        self.set_by_user: Collection[str] = ()
        self._before: dict[str, str | None] = {}

    def use(self, ids: dict[str, list[str]], environment: MutableMapping[str, str]) -> None:
        """Use these from now on, and say so in ``environment``; without any, as it was before."""
        if ids == self.ids:
            return
        for variable, value in self._before.items():
            if value is None:
                environment.pop(variable, None)
            else:
                environment[variable] = value
        self._before.clear()
        for name, devices in ids.items():
            for variable in _variables(name, environment):
                if variable not in self.set_by_user and not environment.get(_NOSET + variable):
                    self._before[variable] = environment.get(variable)
                    environment[variable] = ",".join(devices)
        self.ids = ids


def _variables(name: str, environment: Mapping[str, str]) -> list[str]:
    """The variables of the devices of that name: of all vendors that seem to be here."""
    others = [
        variable
        for variable, sign in _OF_OTHER_VENDORS.get(name, {}).items()
        if variable in environment or (sign and os.path.exists(sign))
    ]
    return [VISIBLE_DEVICES[name], *others]
