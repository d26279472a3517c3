"""All objects of a cluster, as `kubectl apply` takes them: pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from nbray.machines.kubernetes.cluster_file import KubernetesFile
from nbray.machines.kubernetes.pods import (
    CLIENT_PORT,
    CLUSTER_LABEL,
    DASHBOARD_PORT,
    PORT,
    ROLE_LABEL,
    TYPE_LABEL,
    Tls,
    as_label,
    head_name,
    head_words,
    node_pod,
    tls_secret,
    token_secret,
)

_OPTIONS = {
    "CPU": "num-cpus", "GPU": "num-gpus", "object_store_memory": "object-store-memory",
}  # fmt: skip
_JSON = msgspec.json.Encoder()


def scales(wanted: KubernetesFile) -> bool:
    """Whether an autoscaler makes the workers; else there are as many as the file says."""
    return any(one.min_workers != _most(wanted, one) for one in wanted.workers.values())


def _most(wanted: KubernetesFile, one: Any) -> int:
    if one.max_workers is not None:
        return int(one.max_workers)
    return one.min_workers if wanted.max_workers is None else wanted.max_workers


def objects(
    wanted: KubernetesFile, namespace: str, owner: dict[str, Any] | None = None,
    certificate: str = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """Everything but the secrets.

    Args:
        wanted: the file.
        namespace: where it all is.
        owner: what the cluster ends with.
        certificate: names that of its nodes, if they have one of an authority.
    """
    grows = scales(wanted)
    made = [*_accounts(wanted, grows), _service(wanted), _policy(wanted)]
    if grows:
        made += [_file(wanted), *_rights(wanted)]
    made.append(_head(wanted, namespace, grows, certificate))
    if not grows:
        made += [_workers(wanted, namespace, name, certificate) for name in wanted.workers]
    for one in made:
        one["metadata"]["namespace"] = namespace
        one["metadata"].setdefault("labels", {})[CLUSTER_LABEL] = wanted.cluster_name
        if owner is not None:
            one["metadata"]["ownerReferences"] = [owner]
    return made


def secret(wanted: KubernetesFile, namespace: str, token: str) -> dict[str, Any]:
    """The cluster's token."""
    name, labels = token_secret(wanted.cluster_name), {CLUSTER_LABEL: wanted.cluster_name}
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": {"token": token},
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
    }  # fmt: skip


def certificate_secret(
    wanted: KubernetesFile, namespace: str, files: Mapping[str, bytes]
) -> dict[str, Any]:
    """The certificate of all nodes (``tls.crt``), its key, and the authority (``ca.crt``)."""
    name, labels = tls_secret(wanted.cluster_name), {CLUSTER_LABEL: wanted.cluster_name}
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "data": {name: base64.b64encode(data).decode() for name, data in files.items()},
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
    }  # fmt: skip


def _named(api: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}}


def _accounts(wanted: KubernetesFile, grows: bool) -> list[dict[str, Any]]:
    return [
        {**_named("v1", "ServiceAccount", f"{wanted.cluster_name}-{role}"),
         "automountServiceAccountToken": False}
        for role in ("head", "worker")
    ]  # fmt: skip


def _rights(wanted: KubernetesFile) -> list[dict[str, Any]]:
    name = f"{wanted.cluster_name}-head"
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "create", "delete"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
    ]
    bound = {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name}],
    }
    group = "rbac.authorization.k8s.io/v1"
    return [{**_named(group, "Role", name), "rules": rules},
            {**_named(group, "RoleBinding", name), **bound}]  # fmt: skip


def _service(wanted: KubernetesFile) -> dict[str, Any]:
    """Without an address of its own: it gives the head a name, before it is ready, too."""
    ports = {"gcs": PORT, "dashboard": DASHBOARD_PORT, "client": CLIENT_PORT}
    return {
        **_named("v1", "Service", wanted.cluster_name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {CLUSTER_LABEL: wanted.cluster_name, ROLE_LABEL: "head"},
            "ports": [{"name": name, "port": port} for name, port in ports.items()],
        },
    }


def _policy(wanted: KubernetesFile) -> dict[str, Any]:
    """Nodes are reached by nodes of the cluster; the head's two faces by pods of the namespace."""
    mine = {"matchLabels": {CLUSTER_LABEL: wanted.cluster_name}}
    faces = [{"protocol": "TCP", "port": port} for port in (DASHBOARD_PORT, CLIENT_PORT)]
    return {
        **_named("networking.k8s.io/v1", "NetworkPolicy", wanted.cluster_name),
        "spec": {
            "podSelector": mine,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": mine}]},
                {"from": [{"podSelector": {}}], "ports": faces},
            ],
        },
    }


def _file(wanted: KubernetesFile) -> dict[str, Any]:
    """The cluster's file, for the autoscaler."""
    text = yaml.safe_dump(msgspec.to_builtins(wanted))
    return {**_named("v1", "ConfigMap", f"{wanted.cluster_name}-cluster"),
            "data": {"cluster.yaml": text}}  # fmt: skip


def _head(wanted: KubernetesFile, namespace: str, grows: bool, certificate: str) -> dict[str, Any]:
    name, one = wanted.cluster_name, wanted.head
    labels = {CLUSTER_LABEL: name, ROLE_LABEL: "head"}
    words = [*head_words(name, namespace, scales=grows), *_amounts(one.resources), *_labels(one)]
    volume: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": wanted.provider.storage}},
    }
    if wanted.provider.storage_class:
        volume["storageClassName"] = wanted.provider.storage_class
    return {
        **_named("apps/v1", "StatefulSet", f"{name}-head"),
        "spec": {
            "replicas": 1,
            "serviceName": name,
            "selector": {"matchLabels": labels},
            "template": node_pod(
                name, image=wanted.provider.image, words=words, resources=one.resources,
                node_config=one.node_config, labels={}, is_head=True, scales=grows,
                pull_secrets=wanted.provider.image_pull_secrets, tls=Tls.of(wanted.tls),
                certificate=certificate,
            ),
            "volumeClaimTemplates": [
                {"metadata": {"name": "session", "labels": {CLUSTER_LABEL: name}}, "spec": volume}
            ],
        },
    }  # fmt: skip


def _workers(wanted: KubernetesFile, namespace: str, kind: str, certificate: str) -> dict[str, Any]:
    name, one = wanted.cluster_name, wanted.workers[kind]
    labels = {CLUSTER_LABEL: name, ROLE_LABEL: "worker", TYPE_LABEL: as_label(kind)}
    words = [f"--address={head_name(name, namespace)}:{PORT}", *_amounts(one.resources)]
    return {
        **_named("apps/v1", "Deployment", f"{name}-{as_label(kind).lower().replace('_', '-')}"),
        "spec": {
            "replicas": one.min_workers,
            "selector": {"matchLabels": labels},
            "template": node_pod(
                name, image=wanted.provider.image, words=[*words, *_labels(one)],
                resources=one.resources, node_config=one.node_config, labels=labels,
                pull_secrets=wanted.provider.image_pull_secrets, tls=Tls.of(wanted.tls),
                certificate=certificate,
            ),
        },
    }  # fmt: skip


def _amounts(resources: dict[str, float]) -> list[str]:
    """What a type's node is told to have; memory it sees itself, as the limit of its container."""
    others = {name: amount for name, amount in resources.items() if name != "memory"}
    words = [
        f"--{option}={others.pop(name):.15g}"
        for name, option in _OPTIONS.items()
        if others.get(name) is not None
    ]
    return [*words, "--resources", _JSON.encode(others).decode()] if others else words


def _labels(one: Any) -> list[str]:
    return ["--labels", _JSON.encode(one.labels).decode()] if one.labels else []
