"""The state API over gRPC: for the dashboard, the command, and programs that are no drivers."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nbray.common.addresses import split
from nbray.common.session import GCS, Session
from nbray.launcher.found import FoundNode, found_nodes
from nbray.launcher.tls import TlsOptions
from nbray.launcher.token import load_token
from nbray.state.dashboard import Dashboard
from nbray.state.queries import DASHBOARD, Query
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.credentials import read_identity
from nbray.wire.gcs_messages import Empty, KillActorRequest
from nbray.wire.grpc_service import GrpcClient, RpcError

__all__ = [
    "RpcError",
    "StateClient",
    "ask_once",
    "dashboard_trouble",
    "find_cluster",
    "find_dashboard",
]

T = TypeVar("T")

_near: dict[str, str] = {}
"""The sockets of GCSs whose session folder was found here, by the address of each."""

_ENDED_FROM_OUTSIDE = Cause(CauseKind.KILLED, "it was ended from the dashboard or the command line")


class StateClient:
    """Asks the GCS at ``address`` ("host:port"); use it with ``async with``."""

    def __init__(self, address: str, token: bytes, near: str = "") -> None:
        self.address = address
        self._client = GrpcClient(address, token, near=near or _near.get(address, ""))

    async def ask(self, query: Query[T], timeout: float = 10.0) -> T:
        """The rows of a query.

        Raises:
            RpcError: the GCS did not answer within ``timeout`` seconds, or refused the token.
        """
        return query.read(await self.fetch(query, timeout))

    async def fetch(self, query: Query[T], timeout: float = 10.0) -> bytes:
        """The encoded reply, for whoever reads it himself.

        Raises:
            RpcError: as `ask`.
        """
        return await self._client.call_raw(query.method, query.body, timeout)

    @classmethod
    def of_session(cls, address: str, session: Session) -> StateClient:
        """For a process of the cluster, which has a session folder."""
        read_identity(session)
        return cls(address, session.token, session.calls_path(GCS))

    async def kill_actor(
        self, actor_id: str, graceful: bool = False, no_restart: bool = True
    ) -> None:
        """End an actor for good, as `nbray.kill` does; ``graceful``: its exit handlers run.

        Raises:
            RpcError: the GCS did not answer.
        """
        request = KillActorRequest(
            bytes.fromhex(actor_id), no_restart, _ENDED_FROM_OUTSIDE, secrets.token_bytes(8),
            graceful,
        )  # fmt: skip
        await self._client.call("KillActor", request, Empty)

    async def call(self, method: str, request: Any, reply: type[T], timeout: float) -> T:
        """Have the GCS do something.

        Raises:
            RpcError: as for `ask`.
        """
        return await self._client.call(method, request, reply, timeout)

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def __aenter__(self) -> StateClient:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


def ask_once(address: str, token: bytes, query: Query[T], timeout: float = 10.0) -> T:
    """One query, from code that is not asynchronous; also where an event loop runs.

    Raises:
        RpcError: as `StateClient.ask`.
    """

    async def ask() -> T:
        async with StateClient(address, token) as client:
            return await client.ask(query, timeout)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, ask()).result()


def find_dashboard(address: str, token: bytes) -> Dashboard | None:
    """The dashboard of a cluster; None when it has none.

    The session folder of the head node knows it before the dashboard has come up.

    Raises:
        RpcError: the GCS did not answer.
    """
    for node in found_nodes():
        if node.gcs_address == address and node.processes and node.dashboard:
            return Dashboard(
                node.dashboard, node.session.path.name, token, session=node.session.path
            )
    url, cluster = ask_once(address, token, DASHBOARD)
    return Dashboard(url, cluster, token) if url else None


def dashboard_trouble(address: str) -> str:
    """Why a head node of this machine was started without its dashboard; empty if it was not."""
    for node in found_nodes():
        if node.gcs_address == address and node.processes and node.dashboard_error:
            return node.dashboard_error
    return ""


def find_cluster(address: str | None) -> tuple[str, bytes]:
    """GCS address and token: of a cluster with a node here, or of the user's token elsewhere.

    Args:
        address: host:port of a GCS, or http://host:port of the dashboard of a cluster of this
            machine; None takes the newest one.

    Raises:
        ConnectionError: none runs here, or that is no address. FileNotFoundError: there is no
            token for ``address``.
    """
    is_web = address is not None and address.startswith(("http://", "https://"))
    if is_web and (there := dashboard_here(str(address))) is not None:
        address = there[0].gcs_address
    for node in found_nodes():
        if node.processes and address in (None, node.gcs_address):
            read_identity(node.session)
            _near[node.gcs_address] = node.session.calls_path(GCS)
            return node.gcs_address, node.session.token
    if address is None:
        raise ConnectionError("No cluster runs here. Start one with: nbray start --head")
    try:
        split(address)
    except ValueError as error:
        raise ConnectionError(
            f"No cluster of this machine has a dashboard at {address}: give HOST:PORT of the head "
            "node, as HOST:6379."
            if is_web
            else f"That is no address of a cluster: {error}"
        ) from None
    token = load_token(create=False)
    TlsOptions.from_environment().use_here(token)
    return address, token


def dashboard_here(url: str) -> tuple[FoundNode, Dashboard] | None:
    """The node of this machine whose dashboard is at ``url``, and that as a member knows it."""
    for node in found_nodes():
        if node.processes and node.dashboard:
            session = node.session
            own = Dashboard(
                node.dashboard, session.path.name, session.token, session=session.path
            )  # fmt: skip
            if own.base == url.rstrip("/"):
                return node, own
    return None
