"""The keys of a cluster's YAML file: those of Ray's, with its defaults, and a few of our own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from nbray.common.yaml_file import read_yaml
from nbray.machines import certificates, slurm_file

_Checked = TypeVar("_Checked")

_Count = Annotated[int, msgspec.Meta(ge=0)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_HOST = re.compile(r"[A-Za-z0-9_\[:][A-Za-z0-9_.:%\]-]{0,253}")
_START_HEAD = "ulimit -c unlimited; nbray start --head --port=6379"
_START_WORKER = "nbray start --address=$NBRAY_HEAD_IP:6379"
_OF_OTHER_PROVIDERS = ("available_node_types", "head_node", "worker_nodes", "head_node_type")


class ClusterFileError(ValueError):
    """A cluster's file cannot be used as it stands; the text says where and what to do."""


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """Where the machines come from: ``local`` has a list of them, ``slurm`` the head's alone.

    ``interface``, of Slurm only, is the network that the head listens on, if it has it.
    """

    type: str
    head_ip: str = ""
    worker_ips: list[str] = []
    external_head_ip: str | None = None
    coordinator_address: str | None = None
    use_internal_ips: bool = False
    use_external_head_ip: bool = False
    disable_node_updaters: bool = False
    interface: str | None = None


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """How the machines are logged in to. The last three are nbray's own.

    Attributes:
        ssh_user: on each machine; ssh's own default if it is empty.
        ssh_private_key: a file; the keys of the agent and of ``~/.ssh`` by default.
        ssh_public_key: taken, and not needed.
        ssh_proxy_command: through which ssh connects.
        ssh_proxy_use_node_id: of clouds only.
        ssh_port: where sshd listens.
        ssh_config: a file instead of ``~/.ssh/config``: jump hosts, aliases.
        known_hosts: the only file of host keys; by default keys of new hosts are kept in one of
            this cluster, and a changed one is refused.
    """

    ssh_user: str = ""
    ssh_private_key: str | None = None
    ssh_public_key: str | None = None
    ssh_proxy_command: str | None = None
    ssh_proxy_use_node_id: bool = False
    ssh_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    ssh_config: str | None = None
    known_hosts: str | None = None


class Docker(msgspec.Struct, frozen=True, kw_only=True):
    """The container that nodes run in; without an image there is none."""

    image: str = ""
    head_image: str = ""
    worker_image: str = ""
    container_name: str = ""
    pull_before_run: bool = True
    run_options: list[str] = []
    head_run_options: list[str] = []
    worker_run_options: list[str] = []
    disable_automatic_runtime_detection: bool = False
    disable_shm_size_detection: bool = False
    use_podman: bool = False


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster.

    Attributes:
        tls: nbray's own key: see `nbray.machines.certificates`.
        autoscaling: the document for the head's autoscaler, where that makes all workers; it is
            made of the other keys.
    """

    cluster_name: str
    provider: Provider
    auth: Auth = Auth()
    min_workers: _Count | None = None
    max_workers: _Count | None = None
    upscaling_speed: float = 1.0
    idle_timeout_minutes: float = 5
    docker: Docker = Docker()
    file_mounts: dict[str, str] = {}
    cluster_synced_files: list[str] = []
    file_mounts_sync_continuously: bool = False
    rsync_exclude: list[str] = []
    rsync_filter: list[str] = []
    initialization_commands: list[str] = []
    setup_commands: list[str] = []
    head_setup_commands: list[str] = []
    worker_setup_commands: list[str] = []
    head_start_ray_commands: list[str] = msgspec.field(default_factory=lambda: [_START_HEAD])
    worker_start_ray_commands: list[str] = msgspec.field(default_factory=lambda: [_START_WORKER])
    metadata: Any = None
    tls: bool | str = False
    autoscaling: dict[str, Any] | None = None


def read_by(
    check: Callable[[object, str | None], _Checked], path: Path, cluster_name: str | None
) -> _Checked:
    """Read a file whose document ``check`` takes; its errors name the file.

    Raises:
        ClusterFileError: it cannot be read, or ``check`` refuses it.
    """
    try:
        given = read_yaml(path)
    except (OSError, ValueError) as error:
        raise ClusterFileError(f"{path} cannot be read: {error}") from error
    try:
        return check(given, cluster_name)
    except ClusterFileError as error:
        raise ClusterFileError(f"{path}: {error}") from None


def read(path: Path, cluster_name: str | None = None) -> ClusterFile:
    """Read a cluster's file.

    Args:
        path: the file.
        cluster_name: instead of the one that stands there.

    Raises:
        ClusterFileError: it cannot be read, or is not a cluster.
    """
    return read_by(check, path, cluster_name)


def check(given: object, cluster_name: str | None = None) -> ClusterFile:
    """The cluster that a YAML document describes; arguments and errors as for `read`."""
    if not isinstance(given, dict):
        raise ClusterFileError("a cluster is a mapping with cluster_name and provider.")
    given = {
        key: _said(value) if key in ("provider", "auth", "docker") else value
        for key, value in _said(given).items()
    }
    if cluster_name is not None:
        given["cluster_name"] = cluster_name
    if "autoscaling" in given:
        raise ClusterFileError("autoscaling is no key of a file. Did you mean upscaling_speed?")
    if _type_of(given) == "slurm":
        try:
            given = slurm_file.as_machines(given)
        except ValueError as error:
            raise ClusterFileError(f"{error}") from None
    _refuse_unknown(given)
    try:
        wanted = msgspec.convert(given, ClusterFile)
    except ValueError as error:  # msgspec's own, and of half of a surrogate pair
        raise ClusterFileError(f"{error}") from None
    _check_provider(wanted.provider)
    if not _NAME.fullmatch(wanted.cluster_name):
        raise ClusterFileError(
            f"cluster_name {wanted.cluster_name!r} names folders: give letters, digits, '-', '_' "
            "and '.', at most 100."
        )
    if wanted.auth.ssh_user and not _NAME.fullmatch(wanted.auth.ssh_user):
        raise ClusterFileError(f"auth.ssh_user {wanted.auth.ssh_user!r} is no name of a user.")
    try:
        certificates.check(wanted.tls)
    except ValueError as error:
        raise ClusterFileError(str(error)) from None
    if wanted.file_mounts_sync_continuously:
        raise ClusterFileError(
            "file_mounts_sync_continuously is not supported: `nbray rsync-up -A` copies the files "
            "when they have changed."
        )
    for remote in [*wanted.file_mounts, *wanted.cluster_synced_files]:
        if not remote.startswith(("/", "~/")):
            raise ClusterFileError(
                f"file_mounts: {remote!r} begins neither with / nor with ~/, so it is no place on "
                "a host."
            )
    return wanted


def _type_of(given: dict[Any, Any]) -> object:
    provider = given.get("provider")
    return provider.get("type") if isinstance(provider, dict) else None


def _said(given: Any) -> Any:
    """A mapping without the keys that stand there without a value, as in Ray's examples."""
    if not isinstance(given, dict):
        return given
    return {key: value for key, value in given.items() if value is not None}


def _check_provider(provider: Provider) -> None:
    if provider.type not in ("local", "slurm"):
        raise ClusterFileError(
            f"provider.type {provider.type!r} is not supported: nbray has `local`, machines that "
            "run already and are reached by ssh, `slurm` and `kubernetes`."
        )
    if provider.coordinator_address is not None:
        raise ClusterFileError(
            "provider.coordinator_address is not supported: name the machines by head_ip and "
            "worker_ips."
        )
    if provider.disable_node_updaters:
        raise ClusterFileError(
            "provider.disable_node_updaters is not supported: `nbray up` does nothing else than "
            "what it turns off."
        )
    if not provider.head_ip and provider.type == "local":
        raise ClusterFileError("Please supply a `head_ip` and list of `worker_ips`.")
    hosts = [provider.head_ip, *provider.worker_ips]
    for host in filter(None, [*hosts, provider.external_head_ip]):
        if not _HOST.fullmatch(host):
            raise ClusterFileError(f"{host!r} is neither an address nor the name of a host.")
    twice = sorted({host for host in hosts if hosts.count(host) > 1})
    if twice:
        raise ClusterFileError(f"{', '.join(twice)}: named twice; a host runs one node.")


def _refuse_unknown(given: dict[Any, Any]) -> None:
    for key in _OF_OTHER_PROVIDERS:
        if key in given:
            raise ClusterFileError(f"The field {key} is not supported for on-premise clusters.")
    parts: dict[str, type[msgspec.Struct]] = {
        "": ClusterFile, "provider": Provider, "auth": Auth, "docker": Docker,
    }  # fmt: skip
    for part, struct in parts.items():
        found = given.get(part) if part else given
        known = struct.__struct_fields__
        for key in found if isinstance(found, dict) else ():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f" Did you mean {near[0]}?" if near else f" Known are {', '.join(known)}."
                raise ClusterFileError(f"{part}{'.' if part else ''}{key} is no key.{hint}")
