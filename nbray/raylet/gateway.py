"""Requests to the GCS that this raylet passes on for its processes, which speak no gRPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from nbray.common.background import Background
from nbray.raylet.process import Process
from nbray.runtime_env.setup import FetchError
from nbray.wire.frames import UnsendableError
from nbray.wire.gcs_messages import NAME_CHANGED, PACKAGES, FoundActor, KvKey, KvValue, NameChanged
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.messages import GcsReply, GcsRequest
from nbray.wire.near_calls import NearCalls

_METHODS = {
    "ListNodes", "FindActor", "FindGroups",
    "ListActors", "ListJobs", "ListWorkers", "Demand", "RecentFailures", "TaskTotals",
    "GetDashboard", "Scaling", "DrainNode", "ListTasks", "ListObjects", "ListLogs", "ReadLog",
    "Profile",
    "KvPut", "KvGet", "KvGetMany", "KvDel", "KvKeys", "KvExists", "UsePackage",
    "GetSubmission", "ChangeSubmission", "WatchSubmissions",
}  # fmt: skip
_PACKAGE_S = 60.0
_FIND = "FindActor"
_MOST_NAMES = 20_000
Fail = Callable[[Process, GcsRequest, Exception], None]


class Asked(Protocol):
    """What processes have asked before, of which the GCS may not have heard yet."""

    @property
    def is_settled(self) -> bool:
        """Whether it has heard of all that may change what it answers."""

    async def settled(self) -> None:
        """Until it has."""


class KnownNames:
    """Which actors have which names, as the GCS of this machine has told, asked or not.

    It tells whatever changes before anybody can know of it otherwise. So what this process knows
    is true as long as the connection stands and nothing waits unread on it.
    """

    def __init__(self, near: NearCalls | None) -> None:
        self._near = near
        self._over: object | None = None
        self._answers: dict[bytes, bytes] = {}
        if near is not None:
            near.on_told = self._told

    def find(self, request: bytes) -> bytes | None:
        """The encoded answer to an encoded request; None if the GCS has to be asked."""
        answer = self._answers.get(request)
        if answer is None or self._near is None:
            return None
        over = self._near.heard
        return answer if over is not None and over is self._over else None

    def found(self, request: bytes, answer: bytes) -> None:
        """The GCS has answered, on the connection that there is."""
        if msgspec.msgpack.decode(answer, type=FoundActor).actor_id:
            self._keep(request, answer)

    def _told(self, kind: str, body: bytes) -> None:
        if kind != NAME_CHANGED:
            return
        changed = msgspec.msgpack.decode(body, type=NameChanged)
        if changed.found:
            self._keep(changed.name, changed.found)
        else:
            self._answers.pop(changed.name, None)

    def _keep(self, request: bytes, answer: bytes) -> None:
        over = None if self._near is None else self._near.connection
        if over is not self._over:
            self._answers.clear()
            self._over = over
        if len(self._answers) >= _MOST_NAMES:
            del self._answers[next(iter(self._answers))]
        self._answers[request] = answer


class GcsGateway:
    """Passes requests to the GCS.

    ``before``, by method, is what is to reach it before; ``fail`` says that a reply cannot travel.
    """

    def __init__(self, gcs: GrpcClient, before: Mapping[str, Asked], fail: Fail) -> None:
        self._gcs = gcs
        self._names = KnownNames(gcs.near)
        self._before = before
        self._fail = fail
        self._background = Background()

    def pass_on(self, process: Process, message: GcsRequest) -> None:
        """Pass a request on, and its reply back."""
        method = message.method
        if method not in _METHODS:
            self._reply(process, message, b"", f"no such method: {method}")
            return

        before, near = self._before.get(method), self._gcs.near
        if near is None or (before is not None and not before.is_settled):
            self._background.start(self._pass_on(process, message))
            return
        is_name = method == _FIND
        if is_name and (known := self._names.find(message.body)) is not None:
            self._reply(process, message, known, "")
            return

        def answered(body: bytes | None, error: str) -> None:
            if body is None and not error:
                self._background.start(self._pass_on(process, message))
                return
            if is_name and body is not None:
                self._names.found(message.body, body)
            self._reply(process, message, body or b"", error)

        if not near.ask(method, message.body, answered):
            self._background.start(self._pass_on(process, message))

    async def _pass_on(self, process: Process, message: GcsRequest) -> None:
        """The same, if it takes a wait."""
        before = self._before.get(message.method)
        if before is not None:
            await before.settled()
        body, error = b"", ""
        try:
            body = await self._gcs.call_raw(message.method, message.body)
        except RpcError as failed:
            error = str(failed)
        self._reply(process, message, body, error)

    def _reply(self, process: Process, message: GcsRequest, body: bytes, error: str) -> None:
        try:
            process.send(GcsReply(message.request_id, body, error))
        except UnsendableError as too_large:
            self._fail(process, message, too_large)


async def fetch_package(gcs: GrpcClient, key: bytes) -> bytes | None:
    """A package of a runtime environment; None if the GCS does not have it.

    Raises:
        FetchError: the GCS does not answer, or cannot read it now.
    """
    try:
        found = await gcs.call("KvGet", KvKey(PACKAGES, key), KvValue, _PACKAGE_S)
    except RpcError as error:
        raise FetchError(f"The GCS did not send a package: {error}") from error
    return found.value
