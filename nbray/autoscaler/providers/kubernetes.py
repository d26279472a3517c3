"""Nodes as pods: one pod is one instance, found again by its labels.

A pod's name is made of the instance's id, so asking for it twice makes one. It ends with the head's
StatefulSet (or whatever owns the head's pod): when that goes, the API server removes all pods, and
nobody has to be there to do it. What a pod said is kept in the session's logs before it is removed.

In a type's ``node_config``: a Pod, or a part of one, that is laid over ours.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import re
from collections.abc import Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any

from nbray.autoscaler.providers.base import Cluster, Instance, ProviderError, Stage, Wanted
from nbray.autoscaler.providers.kubernetes_api import Api, Refusal
from nbray.machines.kubernetes.pods import (
    CLUSTER_LABEL,
    CONTAINER,
    INSTANCE_LABEL,
    TYPE_LABEL,
    Tls,
    as_label,
    node_pod,
)

logger = logging.getLogger(__name__)

_TYPE_NOTE = "nbray.io/node-type"
_PAGE = 500
_AT_ONCE = 16
_LOG_BYTES = 8192
_KEPT_BYTES = 1 << 20
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
_NOT_DNS = re.compile(r"[^a-z0-9-]+")


class KubernetesProvider:
    """See the head of this module.

    Raises:
        ProviderError: there is no API, or no image.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        section = cluster.document.get("provider") or {}
        self._section = section
        self._api = Api(str(section.get("api_server") or ""))
        self._namespace = str(section.get("namespace") or self._api.namespace)
        self._pods = f"/api/v1/namespaces/{self._namespace}/pods"
        self._selector = f"{CLUSTER_LABEL}={as_label(cluster.name)}"
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._owner: dict[str, Any] | None = None
        self._image = str(section.get("image") or "")

    # --- making --------------------

    async def create(self, wanted: Sequence[Wanted]) -> Mapping[str, str]:
        """Ask for pods; what the API refuses for good is told with its own words."""
        image = self._image or await self._head_image()
        owner = await self._head_owner()
        refused: dict[str, str] = {}

        async def ask(one: Wanted) -> None:
            async with self._places:
                try:
                    await self._api.call("POST", self._pods, self._pod(one, image, owner))
                except Refusal as error:
                    if error.reason == "AlreadyExists":
                        return
                    if error.code in _TRY_AGAIN or error.reason == "Conflict":
                        raise ProviderError(f"Kubernetes does not take pods: {error}") from error
                    refused[one.id] = f"Kubernetes refuses the pod ({error.code}): {error.message}"

        results = await asyncio.gather(*map(ask, wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return refused

    def _pod(self, one: Wanted, image: str, owner: dict[str, Any] | None) -> dict[str, Any]:
        name = self._cluster.name
        labels = {CLUSTER_LABEL: as_label(name), INSTANCE_LABEL: one.id}
        labels[TYPE_LABEL] = as_label(one.type.name)
        made = node_pod(
            name, image=image, words=one.start_words(self._cluster.address)[1:],
            resources=one.type.resources, node_config=one.type.node_config, labels=labels,
            pull_secrets=self._section.get("image_pull_secrets") or (), restarts=False,
            tls=Tls.of(self._cluster.document.get("tls") or False),
        )  # fmt: skip
        metadata = {
            **made["metadata"], "name": self._name(one.id), "namespace": self._namespace,
        }  # fmt: skip
        metadata["annotations"] = {**metadata.get("annotations", {}), _TYPE_NOTE: one.type.name}
        if owner is not None:
            metadata["ownerReferences"] = [owner]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made["spec"]}

    def _name(self, id: str) -> str:
        cluster = _NOT_DNS.sub("-", self._cluster.name.lower()).strip("-")[:20].strip("-")
        return f"{cluster}-{id}" if cluster else f"nbray-{id}"

    async def _head(self) -> dict[str, Any] | None:
        """The pod that this runs in."""
        own = os.environ.get("POD_NAME")
        if not own:
            return None
        try:
            return dict(await self._api.get(f"{self._pods}/{own}"))
        except Refusal as error:
            raise ProviderError(f"Kubernetes does not show the head's pod: {error}") from error

    async def _head_owner(self) -> dict[str, Any] | None:
        """What pods end with: what made the head's pod, or else that pod."""
        if self._owner is None:
            head = await self._head()
            if head is None:
                return None
            metadata = head["metadata"]
            above = [one for one in metadata.get("ownerReferences", ()) if one.get("controller")]
            found = above[0] if above else {
                "apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]
            }  # fmt: skip
            names = ("apiVersion", "kind", "name", "uid")
            self._owner = {name: found[name] for name in names}
        return self._owner

    async def _head_image(self) -> str:
        head = await self._head()
        if head is None:
            raise ProviderError("provider.image is missing: which image do pods run?")
        self._image = str(head["spec"]["containers"][0]["image"])
        return self._image

    # --- looking --------------------

    async def list(self) -> Sequence[Instance]:
        """All pods of this cluster that are instances, page by page."""
        pods = await self._listed()
        events = await self._warnings() if any(_has_no_word(pod) for pod in pods) else {}
        return [_instance(pod, events.get(pod["metadata"]["uid"], "")) for pod in pods]

    async def _listed(self) -> Sequence[dict[str, Any]]:
        pods: MutableSequence[dict[str, Any]] = []
        query: dict[str, str | int] = {
            "labelSelector": f"{self._selector},{INSTANCE_LABEL}", "limit": _PAGE,
        }  # fmt: skip
        while True:
            try:
                page = await self._api.get(self._pods, **query)
            except Refusal as error:
                if error.code == 410 and "continue" in query:  # the list has grown too old
                    del query["continue"]
                    pods = []
                    continue
                raise ProviderError(f"Kubernetes does not list pods: {error}") from error
            pods += page["items"]
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return pods
            query["continue"] = more

    async def _warnings(self) -> dict[str, str]:
        """What was warned of last, by uid of the object."""
        try:
            found = await self._api.get(
                f"/api/v1/namespaces/{self._namespace}/events",
                fieldSelector="involvedObject.kind=Pod,type=Warning", limit=_PAGE,
            )  # fmt: skip
        except Refusal:  # who may not look at events has less to read
            return {}
        items = sorted(found["items"], key=lambda one: str(one.get("lastTimestamp") or ""))
        return {
            one["involvedObject"].get(
                "uid", ""
            ): f"{one.get('reason', '')}: {one.get('message', '')}"
            for one in items
        }

    # --- ending --------------------

    async def terminate(self, ids: Sequence[str]) -> None:
        """Remove pods; what they said is in the session's logs then."""
        await asyncio.gather(*map(self._end, ids))

    async def _end(self, id: str) -> None:
        async with self._places:
            await self._keep_log(id)
            try:
                await self._api.call("DELETE", f"{self._pods}/{self._name(id)}", {})
            except Refusal as error:
                if error.code != 404:
                    raise ProviderError(f"Kubernetes does not remove {id}: {error}") from error

    async def _keep_log(self, id: str) -> None:
        said = await self._log(id, _KEPT_BYTES)
        if said:
            folder = Path(self._cluster.session) / "logs"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"pod-{self._name(id)}.log").write_text(said, errors="replace")
            except OSError as error:
                logger.warning("What pod %s said is not kept: %s", id, error)

    async def logs(self, id: str) -> str:
        """The end of what its container said."""
        return (await self._log(id, 4 * _LOG_BYTES))[-_LOG_BYTES:]

    async def _log(self, id: str, most: int) -> str:
        """The last lines; the API would cut ``limitBytes`` off at the end."""
        try:
            said = await self._api.text(
                f"{self._pods}/{self._name(id)}/log", container=CONTAINER,
                tailLines=max(100, most // 100),
            )  # fmt: skip
        except Refusal:  # there is no container yet, or no more
            return ""
        return said[-most:]

    async def close(self) -> None:
        """The pods stay."""
        self._api.close()


def _instance(pod: Mapping[str, Any], warning: str) -> Instance:
    metadata, status = pod["metadata"], pod.get("status") or {}
    stage, why = _stage(pod, status)
    ends = None
    deleted = metadata.get("deletionTimestamp")
    if deleted and stage is not Stage.ENDED:
        why = why or "its pod is being removed"
        ends = datetime.datetime.fromisoformat(deleted.replace("Z", "+00:00")).timestamp()
    if stage in (Stage.WAITING, Stage.STARTING):
        why = why or warning
    name = metadata["name"]
    return Instance(
        id=metadata["labels"][INSTANCE_LABEL],
        type=(metadata.get("annotations") or {}).get(_TYPE_NOTE)
        or metadata["labels"].get(TYPE_LABEL, ""),
        stage=stage, why=f"Pod {name}: {why}" if why else "", place=f"pod {name}", ends=ends,
    )  # fmt: skip


def _stage(pod: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Stage, str]:
    phase = status.get("phase")
    containers = [*(status.get("initContainerStatuses") or ()),
                  *(status.get("containerStatuses") or ())]  # fmt: skip
    states = [one.get("state") or {} for one in containers]
    ended = [one["terminated"] for one in states if one.get("terminated")]
    if phase in ("Failed", "Succeeded"):
        words = [status.get("reason"), status.get("message")]
        words += [_how_it_ended(one) for one in ended]
        return Stage.ENDED, ": ".join(str(word) for word in words if word) or f"it is {phase}"
    if phase == "Unknown":
        return Stage.RUNNING, "its machine does not answer Kubernetes"
    if phase == "Running":
        return Stage.RUNNING, ""
    waiting = [one["waiting"] for one in states if one.get("waiting")]
    for one in waiting:
        if one.get("reason", "") not in ("", "ContainerCreating", "PodInitializing"):
            return Stage.STARTING, _told(one)
    scheduled = _condition(status, "PodScheduled")
    if (pod.get("spec") or {}).get("nodeName") or scheduled.get("status") == "True":
        return Stage.STARTING, ""
    return Stage.WAITING, str(scheduled.get("message") or scheduled.get("reason") or "")


def _told(said: Mapping[str, Any]) -> str:
    """Reason and message of an event, or of a state."""
    return ": ".join(str(said[key]) for key in ("reason", "message") if said.get(key))


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found = [one for one in status.get("conditions") or () if one.get("type") == kind]
    return found[0] if found else {}


def _how_it_ended(terminated: Mapping[str, Any]) -> str:
    reason, code = terminated.get("reason", ""), terminated.get("exitCode")
    return f"{reason} (exit code {code})" if code else str(reason)


def _has_no_word(pod: Mapping[str, Any]) -> bool:
    stage, why = _stage(pod, pod.get("status") or {})
    return stage in (Stage.WAITING, Stage.STARTING) and not why
