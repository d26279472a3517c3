"""The keys of the file of a cluster on Kubernetes: Ray's, and under ``provider`` our own."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from nbray.common.yaml_file import read_yaml
from nbray.machines import certificates
from nbray.machines.cluster_file import ClusterFileError, read_by

_Count = Annotated[int, msgspec.Meta(ge=0)]
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


class KubernetesProvider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the cluster runs.

    Attributes:
        type: ``kubernetes``.
        image: what all pods run, unless their type's ``node_config`` says otherwise.
        namespace: of all its objects; that of kubectl's context by default.
        context: of kubectl's configuration; the current one by default.
        kubectl: the program, for one that stands elsewhere or needs a wrapper.
        storage: size of the head's volume.
        storage_class: of it; the cluster's default one without.
        image_pull_secrets: names of secrets for the image's registry.
        owner_pod: the head ends with this pod; ``self`` is the one that this command runs in.
        ready_timeout_s: so long `nbray up` waits for pods.
        api_server: where the autoscaler finds the API, if not where every pod finds it.
    """

    type: str
    image: str = ""
    namespace: str = ""
    context: str = ""
    kubectl: str = "kubectl"
    storage: str = "10Gi"
    storage_class: str = ""
    image_pull_secrets: list[str] = []
    owner_pod: str = ""
    ready_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    api_server: str = ""


class NodeType(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``available_node_types``.

    Attributes:
        resources: what a node has; CPU, memory and GPU are also asked of Kubernetes.
        labels: of its nodes.
        node_config: a Pod, or a part of one, that is laid over ours.
        min_workers, max_workers, idle_timeout_s, priority: as for the autoscaler.
    """

    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    node_config: dict[str, Any] = {}
    min_workers: _Count = 0
    max_workers: _Count | None = None
    idle_timeout_s: float | None = None
    priority: int = 0


class KubernetesFile(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster. ``tls`` is as for machines: true, or the folder of an authority."""

    cluster_name: str
    provider: KubernetesProvider
    available_node_types: dict[str, NodeType]
    head_node_type: str
    min_workers: _Count | None = None
    max_workers: _Count | None = None
    upscaling_speed: float = 1.0
    idle_timeout_minutes: float = 5
    metadata: Any = None
    tls: bool | str = False

    @property
    def head(self) -> NodeType:
        """The head's type."""
        return self.available_node_types[self.head_node_type]

    @property
    def workers(self) -> dict[str, NodeType]:
        """The types of workers."""
        types = self.available_node_types
        return {name: one for name, one in types.items() if name != self.head_node_type}


def is_kubernetes(path: Path) -> bool:
    """Whether a file names this provider; one that cannot be read is for others to tell about."""
    try:
        given = read_yaml(path)
        return bool(given["provider"]["type"] == "kubernetes")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read(path: Path, cluster_name: str | None = None) -> KubernetesFile:
    """Read a file.

    Args:
        path: of the file.
        cluster_name: instead of the one that stands there.

    Raises:
        ClusterFileError: it cannot be read, or is not one.
    """
    wanted = read_by(check, path, cluster_name)
    try:
        certificates.check(wanted.tls)
    except ValueError as error:
        raise ClusterFileError(f"{path}: {error}") from None
    return wanted


def check(given: object, cluster_name: str | None = None) -> KubernetesFile:
    """The cluster that a YAML document describes; arguments and errors as for `read`."""
    if not isinstance(given, dict):
        raise ClusterFileError("a cluster is a mapping with cluster_name and provider.")
    given = {key: value for key, value in given.items() if value is not None}
    if cluster_name is not None:
        given["cluster_name"] = cluster_name
    known = KubernetesFile.__struct_fields__
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"Did you mean {near[0]}?" if near else "Set-up is the image's matter."
            raise ClusterFileError(f"{key} is no key of a cluster on Kubernetes. {hint}")
    try:
        wanted = msgspec.convert(given, KubernetesFile)
    except ValueError as error:  # msgspec's own, and of half of a surrogate pair
        raise ClusterFileError(f"{error}") from None
    if not _NAME.fullmatch(wanted.cluster_name):
        raise ClusterFileError(
            f"cluster_name {wanted.cluster_name!r} names services and pods: give lower-case "
            "letters, digits and '-', at most 40, first a letter."
        )
    if wanted.head_node_type not in wanted.available_node_types:
        raise ClusterFileError(
            f"head_node_type {wanted.head_node_type!r} is none of available_node_types."
        )
    for name, one in wanted.available_node_types.items():
        if not wanted.provider.image and "image" not in _container(one):
            raise ClusterFileError(
                f"provider.image is missing, and available_node_types.{name}.node_config has none."
            )
    return wanted


def _container(one: NodeType) -> dict[str, Any]:
    containers = (one.node_config.get("spec") or {}).get("containers")
    return dict(containers[0]) if isinstance(containers, list) and containers else {}
