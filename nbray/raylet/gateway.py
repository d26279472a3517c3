"""Requests to the GCS that this raylet passes on for its processes, which speak no gRPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from nbray.common.background import Background
from nbray.raylet.process import Process
from nbray.wire.frames import UnsendableError
from nbray.wire.gcs_messages import PACKAGES, KvKey, KvValue
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.messages import GcsReply, GcsRequest

_METHODS = {
    "ListNodes", "FindActor", "FindGroups",
    "ListActors", "ListJobs", "ListWorkers", "Demand", "RecentFailures", "TaskTotals",
    "GetDashboard", "Scaling", "DrainNode", "ListTasks", "ListObjects", "ListLogs", "ReadLog",
    "Profile",
    "KvPut", "KvGet", "KvGetMany", "KvDel", "KvKeys", "KvExists", "UsePackage",
    "GetSubmission", "ChangeSubmission", "WatchSubmissions",
}  # fmt: skip
_PACKAGE_S = 60.0
Fail = Callable[[Process, GcsRequest, Exception], None]


class Asked(Protocol):
    """What processes have asked before, of which the GCS may not have heard yet."""

    @property
    def is_settled(self) -> bool:
        """Whether it has heard of all that may change what it answers."""

    async def settled(self) -> None:
        """Until it has."""


class GcsGateway:
    """Passes requests to the GCS.

    ``before``, by method, is what is to reach it before; ``fail`` says that a reply cannot travel.
    """

    def __init__(self, gcs: GrpcClient, before: Mapping[str, Asked], fail: Fail) -> None:
        self._gcs = gcs
        self._before = before
        self._fail = fail
        self._background = Background()

    def pass_on(self, process: Process, message: GcsRequest) -> None:
        """Pass a request on, and its reply back."""
        method = message.method
        if method not in _METHODS:
            self._reply(process, message, b"", f"no such method: {method}")
            return

        def answered(body: bytes | None, error: str) -> None:
            if body is None and not error:
                self._background.start(self._pass_on(process, message))
            else:
                self._reply(process, message, body or b"", error)

        before = self._before.get(method)
        if (before is not None and not before.is_settled) or not self._gcs.ask_near(
            method, message.body, answered
        ):
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
        OSError: the GCS does not answer.
    """
    try:
        found = await gcs.call("KvGet", KvKey(PACKAGES, key), KvValue, _PACKAGE_S)
    except RpcError as error:
        raise OSError(f"The GCS did not send a package: {error}") from error
    return found.value
