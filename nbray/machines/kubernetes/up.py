"""A cluster on Kubernetes is brought up, and taken down; what pods wait for is shown meanwhile."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nbray.machines import certificates
from nbray.machines.board import Board, Outcome
from nbray.machines.hosts import HostError
from nbray.machines.kubernetes.cluster_file import KubernetesFile
from nbray.machines.kubernetes.kubectl import Kubectl
from nbray.machines.kubernetes.objects import certificate_secret, objects, scales, secret
from nbray.machines.kubernetes.pods import (
    CLUSTER_LABEL,
    CONTAINER,
    INSTANCE_LABEL,
    ROLE_LABEL,
    TYPE_LABEL,
    head_name,
    tls_secret,
    token_secret,
)
from nbray.machines.mounts import digest
from nbray.machines.scripts import head_variables

_OBJECTS = "objects"
_KINDS = "statefulsets,deployments,services,configmaps,networkpolicies,rolebindings,roles,"
_ALL_KINDS = f"{_KINDS}serviceaccounts"
_LOOK_S = 5.0
_GONE_S = 180.0
# First what makes pods; then those, which have nobody to hand anything on to.
_ENDS = (
    ("statefulsets,deployments",), ("pods", "--grace-period=5"), (f"{_ALL_KINDS},secrets",),
    ("persistentvolumeclaims",),
)  # fmt: skip
_LINES = 15
_TELL_S = 60.0
_HELD = "nbray.io/held"
RECORD = "/tmp/nbray"
"""Of the node in a pod."""

_REASONS_OF_NOTHING = ("", "ContainerCreating", "PodInitializing")


@dataclass
class KubernetesCluster:
    """A file, and kubectl for it."""

    wanted: KubernetesFile
    kubectl: Kubectl

    @classmethod
    async def of(cls, wanted: KubernetesFile) -> KubernetesCluster:
        """Find out where it is.

        Raises:
            HostError: kubectl does not tell.
        """
        return cls(wanted, await Kubectl.of(wanted.provider))

    @property
    def selector(self) -> str:
        """What all objects of the cluster have."""
        return f"{CLUSTER_LABEL}={self.wanted.cluster_name}"

    @property
    def head_pod(self) -> str:
        """The head's pod."""
        return f"{self.wanted.cluster_name}-head-0"

    async def would(self) -> str:
        """What `up` would change, in kubectl's words.

        Raises:
            HostError: kubectl failed.
        """
        text = await self._text(await self._certificate(make=False))
        said = await self.kubectl.do(
            "asking what would change", "apply", "--dry-run=client", "-f", "-", stdin=text
        )
        leaving = await self._leaving(json.loads(text)["items"])
        return said + "".join(f"{name} would be deleted: the file makes it no more\n"
                              for name in leaving)  # fmt: skip

    async def up(self, board: Board) -> list[Outcome]:
        """Make everything as the file says, and wait until its pods are ready.

        Returns:
            One for the objects, and one for each pod that is waited for.
        """
        board.stage(_OBJECTS, "", "compare, and change what differs")
        try:
            text = await self._text(await self._certificate(make=True))
            await self._make_token()
            said = await self.kubectl.do(
                "applying the objects", "apply", "-f", "-", stdin=text
            )  # fmt: skip
            for name in await self._leaving(json.loads(text)["items"]):
                await self.kubectl.do(f"deleting {name}", "delete", name, "--wait=false")
        except HostError as error:
            took = board.done(_OBJECTS, "failed")
            return [Outcome(_OBJECTS, "", "failed", str(error), took, error)]
        changed = [line for line in said.splitlines() if not line.endswith("unchanged")]
        state = f"{len(changed)} changed" if changed else "unchanged"
        outcome = Outcome(_OBJECTS, "", state, "", board.done(_OBJECTS, state))
        outcomes = [outcome, *await _Waiting(self, board).wait()]
        if scales(self.wanted) and all(one.error is None for one in outcomes):
            try:
                await self._let_grow()
            except HostError as error:
                outcomes.append(Outcome("autoscaler", "", "failed", str(error), 0.0, error))
        return outcomes

    async def _text(self, certificate: str) -> bytes:
        owner = await self._owner()
        made = objects(self.wanted, self.kubectl.namespace, owner, certificate)
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": made}).encode()

    async def _owner(self) -> dict[str, Any] | None:
        name = self.wanted.provider.owner_pod
        if name == "self":
            name = os.environ.get("POD_NAME") or os.uname().nodename
        if not name:
            return None
        pod = await self.kubectl.get("looking for owner_pod", "pod", name)
        if pod is None:
            raise HostError("looking for owner_pod", f"there is no pod {name}")
        uid = pod["metadata"]["uid"]
        return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}

    async def _make_token(self) -> None:
        """Where there is none yet. It is in the API only, and comes there by stdin."""
        name = token_secret(self.wanted.cluster_name)
        found = await self.kubectl.do(
            "looking for the token", "get", "secret", name, "--ignore-not-found", "-o", "name"
        )
        if not found.strip():
            made = secret(self.wanted, self.kubectl.namespace, secrets.token_hex(32))
            owner = await self._owner()
            if owner is not None:
                made["metadata"]["ownerReferences"] = [owner]
            text = json.dumps(made).encode()
            await self.kubectl.do("making the token", "create", "-f", "-", stdin=text)

    async def _certificate(self, *, make: bool) -> str:
        """The name of the certificate of all nodes, which is made where there is none that will do.

        It is in the API only, as the token; the authority's key stays here.
        """
        if not isinstance(self.wanted.tls, str):
            return ""
        wanted, namespace = self.wanted, self.kubectl.namespace
        found = await self.kubectl.get(
            "looking for the certificate", "secret", tls_secret(wanted.cluster_name)
        )
        data = {
            name: base64.b64decode(text) for name, text in (found or {}).get("data", {}).items()
        }
        if certificates.will_do(self.wanted.tls, data):
            return digest(data["tls.crt"])
        if not make:
            return "a new one"
        hosts = [head_name(wanted.cluster_name, namespace), "localhost"]
        files = certificates.shared_by_all(self.wanted.tls, hosts)
        made = certificate_secret(wanted, namespace, files)
        owner = await self._owner()
        if owner is not None:
            made["metadata"]["ownerReferences"] = [owner]
        # What `apply` did would stand in an annotation, key and all.
        how = ("replace",) if found else ("create",)
        await self.kubectl.do(
            "keeping the certificate", *how, "-f", "-", stdin=json.dumps(made).encode()
        )
        return digest(files["tls.crt"])

    async def _leaving(self, wanted: Sequence[Mapping[str, Any]]) -> list[str]:
        """What there is of the cluster and the file makes no more."""
        found = await self.kubectl.get("listing the objects", _ALL_KINDS, "-l", self.selector)
        names = {(one["kind"], one["metadata"]["name"]) for one in wanted}
        there = list((found or {}).get("items", ()))
        if not scales(self.wanted):  # of an autoscaler that there is no more
            there += await self._pods(f"{self.selector},{INSTANCE_LABEL}")
        return [
            f"{one['kind'].lower()}/{one['metadata']['name']}"
            for one in there
            if (one["kind"], one["metadata"]["name"]) not in names
        ]

    async def down(self, board: Board) -> list[Outcome]:
        """Remove everything."""
        board.stage(_OBJECTS, "", "delete what makes pods, and then all others")
        try:
            pods = await self.kubectl.get("listing the pods", "pods", "-l", self.selector)
            for kinds, *how in _ENDS:
                await self.kubectl.do(
                    "deleting the objects", "delete", kinds, "-l", self.selector, *how,
                    f"--timeout={_GONE_S:.0f}s", timeout_s=_GONE_S + 10.0,
                )  # fmt: skip
        except HostError as error:
            took = board.done(_OBJECTS, "failed")
            return [Outcome(_OBJECTS, "", "failed", str(error), took, error)]
        took = board.done(_OBJECTS, "deleted")
        names = [(one["metadata"]["name"], _role(one)) for one in (pods or {}).get("items", ())]
        ended = [Outcome(name, role, "ended") for name, role in sorted(names)]
        return [Outcome(_OBJECTS, "", "deleted", "", took), *ended]

    async def end_workers(self) -> None:
        """Have Deployments make none; the next `up` has them make as many as the file says.

        Raises:
            HostError: kubectl failed.
        """
        for one in objects(self.wanted, self.kubectl.namespace):
            if one["kind"] == "Deployment":
                name = f"deployment/{one['metadata']['name']}"
                patch = '{"spec": {"replicas": 0}}'
                await self.kubectl.do(f"ending the pods of {name}", "patch", name, "-p", patch)

    async def hold(self, bounds: str, patience_s: float) -> None:
        """Have the autoscaler let workers go, and start none until the next `up`.

        Args:
            bounds: ``none`` or ``least``, as `nbray scale` has them.
            patience_s: so long it is waited for.

        Raises:
            HostError: kubectl failed, or not all have left in that time.
        """
        await self._note(f"{_HELD}={bounds}")
        await self._scale(f"{bounds} --wait={patience_s:g}", patience_s + _TELL_S)

    async def _let_grow(self) -> None:
        """The bounds of the file hold again."""
        head = await self.kubectl.get("looking for the head", "statefulset", self._head_set)
        if _HELD in ((head or {}).get("metadata", {}).get("annotations") or {}):
            await self._scale("file", _TELL_S)
            await self._note(f"{_HELD}-")

    @property
    def _head_set(self) -> str:
        return f"{self.wanted.cluster_name}-head"

    async def _note(self, note: str) -> None:
        words = ("annotate", "--overwrite", "statefulset", self._head_set, note)
        await self.kubectl.do("noting it", *words)

    async def _scale(self, words: str, limit_s: float) -> None:
        text = head_variables(RECORD) + (
            f'exec "$NBRAY_PYTHON" -P -c "from nbray.cli import main; main()" scale {words} '
            '--address "$NBRAY_ADDRESS"'
        )
        inside = ("exec", self.head_pod, "-c", CONTAINER, "--", "sh", "-c", text)
        await self.kubectl.do("telling its autoscaler", *inside, timeout_s=limit_s)

    async def addresses(self, role: str) -> list[str]:
        """The addresses of pods.

        Raises:
            HostError: kubectl failed.
        """
        pods = await self._pods(f"{self.selector},{ROLE_LABEL}={role}")
        return [pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP")]

    async def pod_at(self, address: str) -> str:
        """The name of the pod that has an address.

        Raises:
            HostError: kubectl failed, or there is none.
        """
        for pod in await self._pods(self.selector):
            if address in (pod["status"].get("podIP"), pod["metadata"]["name"]):
                return str(pod["metadata"]["name"])
        raise HostError("looking for a pod", f"none of the cluster has the address {address}")

    async def _pods(self, selector: str) -> list[dict[str, Any]]:
        found = await self.kubectl.get("listing the pods", "pods", "-l", selector)
        return list((found or {}).get("items", ()))


class _Waiting:
    """For the head and for the workers that the file wants from the beginning."""

    def __init__(self, cluster: KubernetesCluster, board: Board) -> None:
        wanted = cluster.wanted
        self._cluster = cluster
        self._board = board
        self._pods: dict[str, dict[str, Any]] = {}
        self._grows = scales(wanted)
        self._workers = (
            0 if self._grows else sum(one.min_workers for one in wanted.workers.values())
        )
        self._told: dict[str, str] = {}

    async def wait(self) -> list[Outcome]:
        limit = self._cluster.wanted.provider.ready_timeout_s
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._until_ready()
        said = {}
        if not self._is_ready():
            late = [name for name, pod in self._pods.items() if not _is_ready(pod)]
            said = dict(zip(late, await asyncio.gather(*map(self._said, late)), strict=True))
        return self._outcomes(limit, said)

    async def _said(self, name: str) -> list[str]:
        """The last lines of a pod."""
        with suppress(HostError):  # it has said nothing, or is no more
            words = ("logs", name, "-c", CONTAINER, f"--tail={_LINES}")
            return (await self._cluster.kubectl.do("reading its log", *words)).splitlines()
        return []

    async def _until_ready(self) -> None:
        words = ("pods", "-l", self._cluster.selector)
        asking = asyncio.create_task(self._ask_for_warnings())
        try:
            while True:
                async for pod in self._cluster.kubectl.watch(*words):
                    self._take(pod)
                    if self._is_ready():
                        return
                await asyncio.sleep(1.0)  # the watch was cut: it begins again
                self._pods.clear()
        finally:
            asking.cancel()

    def _is_ready(self) -> bool:
        ready = [pod for pod in self._pods.values() if _is_ready(pod)]
        heads = sum(1 for pod in ready if _role(pod) == "head")
        return heads >= 1 and len(ready) - heads >= self._workers

    def _take(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        if pod["gone"]:
            self._pods.pop(name, None)
            return
        self._pods[name] = pod
        stage = "is ready" if _is_ready(pod) else why_not_ready(pod) or "waits"
        if self._told.get(name) != stage:
            self._told[name] = stage
            self._board.stage(name, _role(pod), stage)

    async def _ask_for_warnings(self) -> None:
        """Of pods that do not say themselves why they are not ready."""
        while True:
            await asyncio.sleep(_LOOK_S)
            silent = {name for name, pod in self._pods.items()
                      if not _is_ready(pod) and not why_not_ready(pod)}  # fmt: skip
            if not silent:
                continue
            with suppress(HostError):  # it is asked again
                found = await self._cluster.kubectl.get(
                    "listing events", "events", "--field-selector", "type=Warning"
                )
                for one in (found or {}).get("items", ()):
                    name = one["involvedObject"].get("name")
                    if name in silent:
                        said = f"{one.get('reason', '')}: {one.get('message', '')}"
                        self._told[name] = said
                        self._board.stage(name, _role(self._pods[name]), said)

    def _outcomes(self, limit: float, said: Mapping[str, Sequence[str]]) -> list[Outcome]:
        outcomes = []
        ordered = sorted(self._pods.items(), key=lambda one: (_role(one[1]) != "head", one[0]))
        for name, pod in ordered:
            if _is_ready(pod):
                took = self._board.done(name, "ready")
                address = pod["status"].get("podIP", "")
                outcomes.append(Outcome(name, _role(pod), "ready", address, took))
            elif not pod["metadata"].get("deletionTimestamp") and not self._is_ready():
                why = self._told.get(name) or "it said nothing"
                error = HostError("becoming ready", why, lines=said.get(name, ()))
                took = self._board.done(name, "failed")
                outcomes.append(Outcome(name, _role(pod), "failed", str(error), took, error))
        missing = 1 + self._workers - len(outcomes)
        if missing > 0:
            error = HostError(
                "waiting for pods", f"{missing} did not come in {limit:.0f} s: kubectl describe "
                f"statefulsets,deployments -l {self._cluster.selector} says why",
            )  # fmt: skip
            outcomes.append(Outcome("pods", "", "failed", str(error), 0.0, error))
        return outcomes


def _role(pod: Mapping[str, Any]) -> str:
    labels = pod["metadata"].get("labels") or {}
    kind = labels.get(TYPE_LABEL)
    return f"worker, {kind}" if kind else str(labels.get(ROLE_LABEL, ""))


def _is_ready(pod: Mapping[str, Any]) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def why_not_ready(pod: Mapping[str, Any]) -> str:
    """What a pod says of itself, in Kubernetes' words."""
    status = pod.get("status") or {}
    for one in status.get("containerStatuses") or ():
        state = one.get("state") or {}
        waiting = state.get("waiting") or {}
        if waiting.get("reason", "") not in _REASONS_OF_NOTHING:
            return _told(waiting)
        ended = state.get("terminated") or (one.get("lastState") or {}).get("terminated")
        if ended:
            return f"{_told(ended)} (exit code {ended.get('exitCode')})"
    if status.get("phase") == "Failed":
        return _told(status)
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return _told(one)
    return ""


def _told(said: Mapping[str, Any]) -> str:
    return ": ".join(str(said[key]) for key in ("reason", "message") if said.get(key))
