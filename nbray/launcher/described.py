"""What the options of ``nbray start`` say of a node: for the command and for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nbray.common import ray_settings
from nbray.common.addresses import interface_address
from nbray.scheduling.labels import check_node_labels

_PORTS = ("node_manager_port", "object_manager_port", "min_worker_port", "max_worker_port")


class NodeOptionError(ValueError):
    """An option cannot be.

    Attributes:
        option: which, as a line has it; "" when it is a matter of several.
    """

    def __init__(self, text: str, option: str = "") -> None:
        super().__init__(text)
        self.option = option


@dataclass(frozen=True)
class Described:
    """A node, as `nbray.launcher.local.start_head` and ``join`` want it.

    Attributes:
        host: where it listens; None: nobody has said.
        resources: amounts by name.
        labels: its labels.
        variables: settings of its processes, in their environment.
    """

    host: str | None
    resources: dict[str, float]
    labels: dict[str, str]
    variables: dict[str, str]


def described(options: Mapping[str, Any]) -> Described:
    """The node of these options, by their names; those that are missing or None say nothing.

    Raises:
        NodeOptionError: they cannot be, or do not fit each other.
    """
    host = options.get("node_ip_address")
    if (interface := options.get("interface")) is not None:
        host = host or _address_of(interface)
    if host in ("0.0.0.0", "::"):
        raise NodeOptionError(
            f"{host} is no address that others can reach: give one of this machine",
            "--node-ip-address",
        )
    amounts = dict(options.get("resources") or {})
    given = (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory"))
    amounts.update({name: options[key] for name, key in given if options.get(key) is not None})
    labels = _labels(options.get("labels") or {}, options.get("labels_file"))
    return Described(host, amounts, labels, _settings(options))


def _address_of(interface: str) -> str:
    try:
        return interface_address(interface)
    except ValueError as error:
        raise NodeOptionError(str(error), "--interface") from error


def _labels(named: Mapping[str, str], file: Path | None) -> dict[str, str]:
    try:
        of_file = {} if file is None else yaml.safe_load(file.read_bytes()) or {}
        return {**check_node_labels(of_file), **named}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise NodeOptionError(str(error), f"--labels-file {file}") from error


def _settings(options: Mapping[str, Any]) -> dict[str, str]:
    """What the node's processes get of Ray's settings, and their ports."""
    said = options.get("system_config")
    try:
        given = ray_settings.system_config({} if said is None else said)
    except (TypeError, ValueError) as error:
        raise NodeOptionError(str(error), "--system-config") from error
    ports = {name: options.get(name) for name in _PORTS}
    first, last = ports["min_worker_port"], ports["max_worker_port"]
    if (first or last) and not (first and last and first <= last):
        raise NodeOptionError("--min-worker-port and --max-worker-port are the ends of a range.")
    of_ports = {f"NBRAY_{name.upper()}": str(port) for name, port in ports.items() if port}
    return {**ray_settings.ray_variables(), **given, **of_ports}
