"""What runs in a pod, and a pod as Kubernetes wants it described: pure.

A pod is one node. Its container runs `nbray start --block`, behind the image's own init, with the
end of the raylet's log as its output, so that it can be read after the pod has failed. Ready is a
pod whose raylet is registered. Before it is ended it drains: it takes nothing new, hands on what
only it has, and leaves.

A head keeps its session on its volume. When its pod is made anew, the newest session that had begun
is there, and the cluster goes on: its name is its address, so that another address of the pod
changes nothing. What a container that was started again in its pod finds in /tmp is of the one
before, and goes; until then it makes nobody ready, as it names another first process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

CLUSTER_LABEL = "nbray.io/cluster"
ROLE_LABEL = "nbray.io/role"
INSTANCE_LABEL = "nbray.io/instance-id"
TYPE_LABEL = "nbray.io/node-type"
CONTAINER = "node"
PORT = 6379
DASHBOARD_PORT = 8265
CLIENT_PORT = 10001
USER = 1000

_DRAIN_S = 60
_GRACE_S = 90
_SESSION = "/tmp/nbray/session/session.json"
_FIRST_PROCESS = "sed 's/.*) //' /proc/1/stat | cut -d ' ' -f 20"  # when it began
_READY = f"""test -e /tmp/nbray/running && \\
test "$({_FIRST_PROCESS})" = "$(cat /tmp/nbray/container)"
"""
_COMMON = f"""umask 077
rm -rf /tmp/nbray; mkdir -p /tmp/nbray/s
{_FIRST_PROCESS} >/tmp/nbray/container
cp /etc/nbray/token/token /tmp/nbray/token
export NBRAY_NODE_RECORD=/tmp/nbray
tail -n +1 -F /tmp/nbray/session/logs/raylet.log 2>/dev/null &
"""
_WORKER = f"""{_COMMON}exec nbray start --node-ip-address="$POD_IP" --block "$@"
"""
_HEAD = f"""{_COMMON}mkdir -p /var/lib/nbray/s
last=$(ls -t /var/lib/nbray/s/*/session.json 2>/dev/null | head -n 1)
if [ -n "$last" ]; then set -- --session="${{last%/session.json}}" "$@"; fi
for word; do case $word in --node-ip-address=*) name=${{word#*=}};; esac; done
for _ in $(seq 120); do getent hosts "$name" >/dev/null && break; sleep 0.5; done
exec nbray start --head --block --keep-session "$@"
"""
_DRAIN = f"""of() {{ sed -n "s/.*\\"$1\\": \\"\\([^\\"]*\\)\\".*/\\1/p" {_SESSION}; }}
nbray drain-node --address="$(of gcs_address)" --node-id="$(of node_id)" \\
  --reason=DRAIN_NODE_REASON_PREEMPTION --reason-message="its pod ends" \\
  --deadline-remaining-seconds={_DRAIN_S} >>/tmp/nbray/session/logs/raylet.log 2>&1 || exit 0
while [ -e {_SESSION} ]; do sleep 0.5; done
"""
_TLS = "/etc/nbray/tls"
_CERTIFICATE = "nbray.io/certificate"
_UNITS = {"CPU": "cpu", "memory": "memory", "GPU": "nvidia.com/gpu"}
_NOT_A_LABEL = re.compile(r"[^A-Za-z0-9_.-]")


def token_secret(cluster: str) -> str:
    """The name of the secret that has the cluster's token."""
    return f"{cluster}-token"


class Tls(StrEnum):
    """What nodes show each other."""

    NO = ""
    TOKEN = "token"
    """Certificates that the token signs; there is nothing to bring."""

    SECRET = "secret"
    """One certificate for all, of the secret `tls_secret`."""

    @classmethod
    def of(cls, said: bool | str) -> Tls:
        """For the key ``tls`` of a file."""
        return cls.SECRET if isinstance(said, str) else cls.TOKEN if said else cls.NO


def tls_secret(cluster: str) -> str:
    """The name of the secret that has the certificate of its nodes, with the key."""
    return f"{cluster}-tls"


def as_label(text: str) -> str:
    """A text as the value of a label."""
    return _NOT_A_LABEL.sub("_", text)[:63].strip("_.-")


def head_words(cluster: str, namespace: str, *, scales: bool) -> list[str]:
    """How a head is started, behind ``nbray start --head``.

    Args:
        cluster: its name.
        namespace: of its pods.
        scales: an autoscaler is to run.
    """
    words = [
        f"--node-ip-address={head_name(cluster, namespace)}", f"--port={PORT}",
        "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD_PORT}",
    ]  # fmt: skip
    return [*words, "--autoscaling-config=/etc/nbray/cluster/cluster.yaml"] if scales else words


def head_name(cluster: str, namespace: str) -> str:
    """The name by which a head is reached, whatever its address is."""
    return f"{cluster}-head-0.{cluster}.{namespace}"


_TLS_VARIABLES: Mapping[Tls, Mapping[str, str]] = {
    Tls.NO: {},
    Tls.TOKEN: {"NBRAY_USE_TLS": "1"},
    Tls.SECRET: {
        "NBRAY_USE_TLS": "1",
        "NBRAY_TLS_SERVER_CERT": f"{_TLS}/tls.crt",
        "NBRAY_TLS_SERVER_KEY": f"{_TLS}/tls.key",
        "NBRAY_TLS_CA_CERT": f"{_TLS}/ca.crt",
    },
}


def node_pod(
    cluster: str, *, image: str, words: Sequence[str], resources: Mapping[str, float],
    node_config: Mapping[str, Any], labels: Mapping[str, str], pull_secrets: Sequence[str] = (),
    is_head: bool = False, scales: bool = False, restarts: bool = True, tls: Tls = Tls.NO,
    certificate: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Metadata and spec of a pod.

    Args:
        cluster: its name.
        image: of its container.
        words: of its start command.
        resources: of its node; what of them Kubernetes knows is asked of it, and is the limit.
        node_config: laid over all this: of lists, entries of the same name are merged.
        labels: of the pod.
        pull_secrets: for the image.
        is_head: it has the GCS, and a volume for its session.
        scales: it has the cluster's file and may make pods.
        restarts: the container is started again where it is.
        tls: whether its node has TLS, and with what.
        certificate: names the certificate; pods of another one are made anew.
    """
    asked = {_UNITS[name]: _amount(name, amount) for name, amount in resources.items()
             if name in _UNITS and amount}  # fmt: skip
    mounts = [{"name": "token", "mountPath": "/etc/nbray/token", "readOnly": True},
              {"name": "tmp", "mountPath": "/tmp"}]  # fmt: skip
    volumes: list[dict[str, Any]] = [
        {"name": "token", "secret": {"secretName": token_secret(cluster), "defaultMode": 0o440}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if is_head:
        mounts.append({"name": "session", "mountPath": "/var/lib/nbray"})
    if scales:
        mounts.append({"name": "cluster", "mountPath": "/etc/nbray/cluster", "readOnly": True})
        volumes.append({"name": "cluster", "configMap": {"name": f"{cluster}-cluster"}})
    variables = _TLS_VARIABLES[tls]
    if tls is Tls.SECRET:
        mounts.append({"name": "tls", "mountPath": _TLS, "readOnly": True})
        volumes.append(
            {"name": "tls", "secret": {"secretName": tls_secret(cluster), "defaultMode": 0o440}}
        )
    ports = {"gcs": PORT, "dashboard": DASHBOARD_PORT, "client": CLIENT_PORT} if is_head else {}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": image,
        "args": ["sh", "-c", _HEAD if is_head else _WORKER, "nbray", *words],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {
                "name": "POD_NAMESPACE",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}},
            },
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            # Also for what `kubectl exec` runs there.
            {"name": "NBRAY_TMPDIR", "value": "/var/lib/nbray/s" if is_head else "/tmp/nbray/s"},
            {"name": "NBRAY_AUTH_TOKEN_PATH", "value": "/tmp/nbray/token"},
            *({"name": name, "value": value} for name, value in variables.items()),
        ],
        "resources": {"requests": dict(asked), "limits": dict(asked)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
        "readinessProbe": {
            "exec": {"command": ["sh", "-c", _READY]},
            "periodSeconds": 2,
            "failureThreshold": 3,
        },
    }
    if ports:
        container["ports"] = [
            {"name": name, "containerPort": port} for name, port in ports.items()
        ]  # fmt: skip
    if not is_head:
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", _DRAIN]}}}
    spec: dict[str, Any] = {
        "containers": [container],
        "volumes": volumes,
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "serviceAccountName": f"{cluster}-head" if is_head else f"{cluster}-worker",
        "automountServiceAccountToken": is_head and scales,
        "enableServiceLinks": False,  # a service called nbray would set variables of ours
    }
    if not restarts:
        spec["restartPolicy"] = "Never"
    if pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in pull_secrets]
    role = "head" if is_head else "worker"
    pod: dict[str, Any] = {
        "metadata": {"labels": {**labels, CLUSTER_LABEL: cluster, ROLE_LABEL: role}},
        "spec": spec,
    }
    if certificate:
        pod["metadata"]["annotations"] = {_CERTIFICATE: certificate}
    given = {key: node_config[key] for key in ("metadata", "spec") if node_config.get(key)}
    made: dict[str, Any] = merged(_named(given), pod)
    made["metadata"]["labels"] |= {**labels, CLUSTER_LABEL: cluster, ROLE_LABEL: role}
    return made


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """The first container of a file is the node's, whatever it is called there."""
    containers = (given.get("spec") or {}).get("containers")
    if not containers:
        return given
    first = {**containers[0], "name": CONTAINER}
    return {**given, "spec": {**given["spec"], "containers": [first, *containers[1:]]}}


def _amount(name: str, amount: float) -> str:
    if name == "CPU":
        return str(int(amount)) if amount == int(amount) else f"{round(1000 * amount)}m"
    return str(int(amount))


def merged(over: Any, under: Any) -> Any:
    """``over`` laid over ``under``: mappings key by key, lists of named things name by name."""
    if isinstance(over, Mapping) and isinstance(under, Mapping):
        both = {**under, **over}
        return {
            key: merged(over[key], under[key]) if key in over and key in under else value
            for key, value in both.items()
        }
    if _all_named(over) and _all_named(under):
        mine = {one["name"]: one for one in over}
        known = [merged(mine.pop(one["name"], {}), one) for one in under]
        return [*known, *mine.values()]
    return over


def _all_named(given: Any) -> bool:
    return isinstance(given, list) and all(
        isinstance(one, Mapping) and "name" in one for one in given
    )
