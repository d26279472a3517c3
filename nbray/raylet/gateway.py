"""Requests to the GCS that this raylet passes on for its processes, which speak no gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from nbray.raylet.process import Process
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


class GcsGateway:
    """Passes requests to the GCS.

    ``settled`` waits, by method, for what was asked before and may change the answer.
    """

    def __init__(
        self, gcs: GrpcClient, settled: Mapping[str, Callable[[], Awaitable[None]]]
    ) -> None:
        self._gcs = gcs
        self._settled = settled

    async def pass_on(self, process: Process, message: GcsRequest) -> None:
        """Pass a request on, and its reply back."""
        body, error = b"", ""
        if message.method not in _METHODS:
            error = f"no such method: {message.method}"
        else:
            settled = self._settled.get(message.method)
            if settled is not None:
                await settled()
            try:
                body = await self._gcs.call_raw(message.method, message.body)
            except RpcError as failed:
                error = str(failed)
        process.send(GcsReply(message.request_id, body, error))


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
