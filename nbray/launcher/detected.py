"""The accelerators of this machine, as their drivers' files tell of them.

A driver that hangs would hold up whoever loads its library or runs its tool; files are read in no
time. In a container there are those of the devices that it was given.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from nbray.common.accelerators import ACCELERATOR_TYPE, VISIBLE_DEVICES

logger = logging.getLogger(__name__)

TYPE_LABEL = "ray.io/accelerator-type"
_SLURM = "SLURM_JOB_ID"
_NONE = ("", "-1", "NoDevFiles")  # as a name of a visible device: there is none from here on
_NVIDIA, _AMD = "proc/driver/nvidia/gpus/*/information", "sys/class/kfd/kfd/topology/nodes/*"
_FILES = {
    "TPU": ("dev/accel[0-9]*",),
    "NPU": ("dev/davinci[0-9]*",),
    "TTNPU": ("dev/tenstorrent/*",),
    "MBLT": ("dev/aries[0-9]*", "dev/regulus-npu*"),
}
_OF_AMD = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_MODEL = re.compile(r"[A-Z]+[0-9]+[A-Z]*|RTX-PRO-6000")


def accelerators(
    given: Mapping[str, float],
    root: Path = Path("/"),
    variables: Mapping[str, str] = os.environ,
) -> dict[str, float]:
    """What this machine has beside what its starter says.

    As in Ray, a variable of visible devices (``CUDA_VISIBLE_DEVICES``) that is set bounds what is
    found; Slurm sets it for the devices of a job (https://docs.ray.io/en/latest/ray-core/scheduling/accelerators.html).

    Args:
        given: amounts by name, which hold, 0 as well.
        root: where the files are.
        variables: the environment of the node.

    Returns:
        Amounts by name: how many there are of a kind, and ``accelerator_type:`` with its type.

    Raises:
        ValueError: more are given than a variable names.

    Examples:
        >>> accelerators({}, Path("/no/machine"))
        {}
    """
    _check_visible(given, variables)
    nvidia = list(_models_of_nvidia(root))
    found: dict[str, float] = {"GPU": len(nvidia) or _count_of_amd(root)}
    for name, patterns in _FILES.items():
        paths = [path for pattern in patterns for path in root.glob(pattern)]
        found[name] = sum(not path.is_dir() for path in paths)
    for name in found:
        bounds = (VISIBLE_DEVICES[name], *(_OF_AMD if name == "GPU" else ()))
        said = [variables[one] for one in bounds if one in variables]
        if not said and _SLURM in variables:  # to use more than a job was given is others' cost
            found[name] = 0
        found[name] = min([found[name], *map(_visible, said)])
    amounts = {name: amount for name, amount in found.items() if amount and name not in given}
    if given.get("GPU", found["GPU"]):
        for model in nvidia:
            if (kind := type_of(model)) and f"{ACCELERATOR_TYPE}{kind}" not in given:
                amounts[f"{ACCELERATOR_TYPE}{kind}"] = 1.0
    return amounts


def type_label(amounts: Mapping[str, float]) -> dict[str, str]:
    """The label of a node with these amounts, which selectors ask for; none if it has no type."""
    kinds = [
        name.removeprefix(ACCELERATOR_TYPE) for name in amounts if name.startswith(ACCELERATOR_TYPE)
    ]
    return {TYPE_LABEL: kinds[0]} if kinds else {}


def type_of(model: str) -> str:
    """The type of a GPU, as the option ``accelerator_type`` has it, by its model; "" if unknown.

    Examples:
        >>> type_of("NVIDIA A100-SXM4-40GB"), type_of("Tesla T4"), type_of("NVIDIA GeForce GTX")
        ('A100', 'T4', '')
    """
    name = model.replace(" ", "-")
    known = re.search(rf"-({_MODEL.pattern})(?=-|$)", name)
    return known[1] if known else ""


def _models_of_nvidia(root: Path) -> Iterator[str]:
    for path in sorted(root.glob(_NVIDIA)):
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            logger.warning("A GPU is not counted, since %s cannot be read: %s", path, error)
            continue
        named = re.search(r"^Model:[ \t]*(.*)$", text, re.MULTILINE)
        yield named[1].strip() if named else ""


def _count_of_amd(root: Path) -> int:
    """CPUs are nodes of that topology, too; what can run waves has SIMD units."""
    count = 0
    for folder in root.glob(_AMD):
        try:
            text = (folder / "properties").read_text(errors="replace")
        except OSError:  # of a device that belongs to another container
            continue
        units = re.search(r"^simd_count (\d+)$", text, re.MULTILINE)
        count += bool(units and int(units[1]))
    return count


def _check_visible(given: Mapping[str, float], variables: Mapping[str, str]) -> None:
    """More devices than the variable names would be given out by numbers that it does not have."""
    for name, variable in VISIBLE_DEVICES.items():
        said = variables.get(variable)
        if said is None or name not in given:
            continue
        ids = [] if said in ("", "NoDevFiles") else said.split(",")
        if given[name] > len(ids):
            raise ValueError(
                f"Attempting to start raylet with {given[name]:g} {name}, but {variable} contains "
                f"{ids}."
            )


def _visible(said: str) -> int:
    """How many devices a variable names."""
    count = 0
    for name in said.split(","):
        if name.strip() in _NONE:
            break
        count += 1
    return count
