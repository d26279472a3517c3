"""The thin gRPC layer between nodes: typed msgspec messages over mutual TLS.

A service is a set of handlers by method name. Both sides prove in the TLS handshake that they have
the cluster's token (`credentials.py`), so that no secret is ever sent, no call of a stranger is
read, and what a member sends cannot be taken up by whoever stands between. With certificates of
the user's, each call and each answer has a proof of the token beside.

gRPC itself is in `grpc_calls`, and is imported when somebody calls by it: a server begins when the
first caller has come to its port (`late_port`), a client with its first call that no Unix socket
takes (`near_calls`). A cluster on one machine never has it.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from nbray.common.config import Config
from nbray.wire.call_errors import CLOSED
from nbray.wire.call_errors import RefusedError as RefusedError
from nbray.wire.call_errors import RpcError as RpcError
from nbray.wire.late_port import LatePort
from nbray.wire.near_calls import Handler as Handler
from nbray.wire.near_calls import Handlers, NearCallError, NearCalls

if TYPE_CHECKING:
    from nbray.wire.grpc_calls import Channel, Service

_MOST_SILENT = 4096
_RETRY_DELAY_S = 0.05
_TIMEOUT_S = 10.0
Reply = TypeVar("Reply")
_encode = msgspec.msgpack.Encoder().encode


class CallServer:
    """Answers the calls of other nodes; see `serve`."""

    def __init__(self, host: str, port: int, token: bytes, handlers: Handlers) -> None:
        self._host = host
        self._token = token
        self._handlers = handlers
        self._service: Service | None = None
        # Strangers have half of the files that this process may open.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = _MOST_SILENT if files < 0 else min(_MOST_SILENT, files // 2)
        silent_s = Config.from_env().handshake_timeout_s
        self._port = LatePort(host, port, self._start, silent_s, most)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port.port

    async def _start(self, passed_on: str) -> int:
        calls = await asyncio.to_thread(_import_grpc)
        service: Service = await calls.service(self._token, self._handlers)
        try:
            place = await service.listen(passed_on, 0, passed_on=True)
            self._port.share()
            await service.listen(self._host, self.port)
        except BaseException:
            await service.stop(0)
            raise
        self._service = service
        return place

    async def stop(self, grace: float | None) -> None:
        """Answer no more; calls that are being answered have ``grace`` seconds."""
        await self._port.close()
        if self._service is not None:
            await self._service.stop(grace)


def _import_grpc() -> Any:
    from nbray.wire import grpc_calls

    return grpc_calls


async def serve(host: str, port: int, token: bytes, handlers: Handlers) -> tuple[CallServer, int]:
    """Serve ``{method: (request type, handler)}`` to members; returns the server and its port.

    Raises:
        OSError: the port is in use.
    """
    server = CallServer(host, port, token, handlers)
    return server, server.port


class GrpcClient:
    """Calls the service at ``address`` ("host:port").

    With ``patience_s``, calls are made again as long as nobody is there, up to so many seconds:
    then every method must be one that may be repeated. With ``near``, whoever serves there listens
    at that Unix socket, too, if it is on this machine; a call that broke off there is repeated.
    """

    def __init__(self, address: str, token: bytes, patience_s: float = 0.0, near: str = "") -> None:
        self.address = address
        self.near = NearCalls(near, token) if near else None
        self._token = token
        self._patience_s = patience_s
        self._met_near = False
        self._closed = False
        self._channel: Channel | None = None

    async def call_raw(self, method: str, body: bytes, timeout: float | None = None) -> bytes:
        """Send an encoded request and return the encoded reply.

        Once a member has answered at the address, a stranger there is one who took the port: a
        client with patience waits for the member.

        Raises:
            RefusedError: this process is not of that cluster.
            RpcError: the call failed, or took longer than ``timeout`` seconds, by default the
                patience, or 10 s without one.
        """
        allowed = timeout or self._patience_s or _TIMEOUT_S
        deadline = time.monotonic() + allowed
        while True:
            if self.near is not None:
                try:
                    answer = await self._call_near(self.near, method, body, deadline)
                except NearCallError as error:
                    raise RpcError(f"{method} at {self.address}: {error}") from error
                except TimeoutError:
                    text = f"{method} at {self.address}: no answer in {allowed:.1f} s"
                    raise RpcError(text) from None
                if answer is not None:
                    self._met_near = True
                    return answer
            try:
                far = self._far(method)
            except (OSError, ImportError) as error:  # no file can be opened, by neither way
                if not self._patience_s or time.monotonic() > deadline:
                    raise RpcError(f"{method} at {self.address}: {error}") from error
                await asyncio.sleep(_RETRY_DELAY_S)
            else:
                return await far.call(method, body, deadline)

    def _far(self, method: str) -> Channel:
        """The way by gRPC.

        Raises:
            RpcError: this client is closed. OSError, ImportError: gRPC cannot be imported.
        """
        if self._closed:
            raise RpcError(f"{method} at {self.address}: {CLOSED}")
        if self._channel is None:
            from nbray.wire.grpc_calls import Channel

            self._channel = Channel(self.address, self._token, self._patience_s)
        if self._met_near:
            self._channel.met = True
        return self._channel

    async def _call_near(
        self, near: NearCalls, method: str, body: bytes, deadline: float
    ) -> bytes | None:
        """The answer of who serves on this machine; None if it is to be asked by gRPC.

        Raises:
            NearCallError: who serves could not do it.
            TimeoutError: there was none by the deadline.
        """
        while True:
            answer = await near.call(method, body, max(deadline - time.monotonic(), 0.001))
            if answer is not None or not self._patience_s or not near.may_come_back:
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError
            await asyncio.sleep(_RETRY_DELAY_S)

    async def call(
        self, method: str, request: Any, reply_type: type[Reply], timeout: float | None = None
    ) -> Reply:
        """Send a typed request and return the typed reply; raises like `call_raw`."""
        reply = await self.call_raw(method, _encode(request), timeout)
        return msgspec.msgpack.decode(reply, type=reply_type)

    async def close(self) -> None:
        """Close the channel; calls that are on their way fail."""
        self._closed = True
        if self.near is not None:
            self.near.close()
        if self._channel is not None:
            await self._channel.close()
