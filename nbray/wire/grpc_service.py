"""The thin gRPC layer between nodes: typed msgspec messages, the token in the metadata.

A service is a set of handlers by method name. The token is compared in constant time from the
metadata of a call, before its body is looked at.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
import msgspec

from nbray.wire import handshake
from nbray.wire.frames import MALFORMED

logger = logging.getLogger(__name__)

_SERVICE = "nbray"
_KEY = "nbray-token"
_VERSION_KEY = "nbray-version"
_OPTIONS = [
    ("grpc.max_receive_message_length", 128 << 20),
    ("grpc.max_send_message_length", 128 << 20),
    ("grpc.so_reuseport", 0),
    # A peer that comes back is found at once, one that vanished without a word within seconds.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
]
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION)
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_RETRY_DELAY_S = 0.05
_TIMEOUT_S = 10.0
Reply = TypeVar("Reply")
Handler = Callable[[Any], Awaitable[Any]]
_encode = msgspec.msgpack.Encoder().encode


class RpcError(Exception):
    """A call between nodes failed; the text names the method, the address and the cause."""


class RefusedError(RpcError):
    """The other side is there, and does not take this one in: another token, or version."""


async def _refuse(context: Any, code: grpc.StatusCode, reason: str) -> NoReturn:
    """Answer a call by an error, with one line in the log."""
    logger.warning("Refused a call of %s: %s.", context.peer(), reason)
    await context.abort(code, reason)
    raise AssertionError("abort raises")


class _MemberCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Whether the caller has the token, and then whether it speaks this protocol."""

    def __init__(self, token: bytes) -> None:
        self._expected = token.hex()
        self._version = str(handshake.PROTOCOL_VERSION)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        given = dict(details.invocation_metadata or ())
        version = given.get(_VERSION_KEY, "none")
        if not hmac.compare_digest(str(given.get(_KEY, "")).encode(), self._expected.encode()):
            code, reason = grpc.StatusCode.UNAUTHENTICATED, "wrong cluster token"
        elif version != self._version:
            code = grpc.StatusCode.FAILED_PRECONDITION
            reason = (
                f"the caller speaks protocol version {version}, this cluster {self._version}: "
                "install the same nbray on both"
            )
        else:
            return await continuation(details)

        async def refuse(_request: bytes, context: Any) -> bytes:
            await _refuse(context, code, reason)

        return grpc.unary_unary_rpc_method_handler(refuse)


async def serve(
    host: str, port: int, token: bytes, handlers: dict[str, tuple[Any, Handler]]
) -> tuple[grpc.aio.Server, int]:
    """Serve ``{method: (request type, handler)}``; returns the server and its port.

    Raises:
        OSError: the port is in use.
    """
    server = grpc.aio.server(interceptors=[_MemberCheck(token)], options=_OPTIONS)
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            _adapt(msgspec.msgpack.Decoder(request_type), handler), response_serializer=_encode
        )
        for name, (request_type, handler) in handlers.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(f"port {port} of {host} is in use") from error
    await server.start()
    return server, bound


def _adapt(decoder: Any, handler: Handler) -> Callable[[bytes, Any], Awaitable[Any]]:
    async def call(body: bytes, context: Any) -> Any:
        try:
            request = decoder.decode(body)
        except MALFORMED as error:
            reason = f"a malformed request: {error}"
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, reason)
        return await handler(request)

    return call


class GrpcClient:
    """Calls the service at ``address`` ("host:port").

    With ``patience_s``, calls are made again as long as nobody is there, up to so many seconds:
    then every method must be one that may be repeated.
    """

    def __init__(self, address: str, token: bytes, patience_s: float = 0.0) -> None:
        self.address = address
        self._patience_s = patience_s
        self._metadata = (
            (_KEY, token.hex()),
            (_VERSION_KEY, str(handshake.PROTOCOL_VERSION)),
        )
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)

    async def call_raw(self, method: str, body: bytes, timeout: float | None = None) -> bytes:
        """Send an encoded request and return the encoded reply.

        Raises:
            RefusedError: this process is not of that cluster.
            RpcError: the call failed, or took longer than ``timeout`` seconds, by default the
                patience, or 10 s without one.
        """
        patient = self._patience_s > 0
        deadline = time.monotonic() + (timeout or self._patience_s or _TIMEOUT_S)
        while True:
            left = deadline - time.monotonic()
            try:
                reply: bytes = await self._channel.unary_unary(f"/{_SERVICE}/{method}")(
                    body, timeout=max(left, 0.001), metadata=self._metadata, wait_for_ready=patient
                )
            except grpc.aio.AioRpcError as error:
                if error.code() in _REFUSED:
                    raise RefusedError(
                        f"{self.address} refuses {method}: {error.details()}"
                    ) from error
                if not patient or error.code() not in _GONE or left < _RETRY_DELAY_S:
                    raise RpcError(f"{method} at {self.address}: {error.details()}") from error
                await asyncio.sleep(_RETRY_DELAY_S)
            else:
                return reply

    async def call(
        self, method: str, request: Any, reply_type: type[Reply], timeout: float | None = None
    ) -> Reply:
        """Send a typed request and return the typed reply; raises like `call_raw`."""
        reply = await self.call_raw(method, _encode(request), timeout)
        return msgspec.msgpack.decode(reply, type=reply_type)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
