"""What the options of ``nbray start`` say of a node: for the command and for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbray.common import ray_settings
from nbray.common.addresses import interface_address
from nbray.common.yaml_file import read_yaml
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
class NodeOptions:
    """What a node is to be, for `nbray.launcher.local.start_head` and ``join``.

    Attributes:
        resources: amounts by name; CPU and memory (bytes) get defaults from what the machine or
            the container allows.
        host: the address to listen on; None: nobody has said, which is this machine alone.
        labels: its labels, for label selectors.
        variables: settings, in the environment of its processes.
        object_store_memory: bytes of the arena; 30% of the free memory by default.
        object_spilling_directory: where values go when the arena is full; the session folder by
            default.
        has_accelerators: those that the machine has are this node's, as far as ``resources`` says
            nothing of them; not for a further node of the same machine.
    """

    resources: Mapping[str, float] = field(default_factory=dict)
    host: str | None = None
    labels: Mapping[str, str] | None = None
    variables: Mapping[str, str] | None = None
    object_store_memory: float | None = None
    object_spilling_directory: str | None = None
    has_accelerators: bool = False

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.host or "127.0.0.1"


def described(options: Mapping[str, Any]) -> NodeOptions:
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
    return NodeOptions(
        amounts, host, labels, _settings(options), options.get("object_store_memory"),
        options.get("object_spilling_directory"), has_accelerators=True,
    )  # fmt: skip


def _address_of(interface: str) -> str:
    try:
        return interface_address(interface)
    except ValueError as error:
        raise NodeOptionError(str(error), "--interface") from error


def _labels(named: Mapping[str, str], file: Path | None) -> dict[str, str]:
    if file is None:
        return dict(named)
    try:
        return {**check_node_labels(read_yaml(file) or {}), **named}
    except (OSError, ValueError) as error:
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
