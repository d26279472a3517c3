"""What is said by gRPC itself: a server, and a channel. `grpc_service` is the door to it.

It is imported with the first call that goes by gRPC: that takes 70 ms, and 15 MB of each process.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

# gRPC writes a line into the log for each stranger whose handshake fails, without a bound. It reads
# the variable when it is imported; it is not for the workers, whose gRPC is the user's.
if "GRPC_VERBOSITY" in os.environ:
    import grpc
else:
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    try:
        import grpc
    finally:
        del os.environ["GRPC_VERBOSITY"]
import grpc.aio
import msgspec

from nbray.common.addresses import joined, split
from nbray.common.config import Config
from nbray.common.software import Software, own_software
from nbray.wire.call_errors import CLOSED, RefusedError, RpcError
from nbray.wire.credentials import Member, member_of, proof
from nbray.wire.frames import MALFORMED
from nbray.wire.handshake import HandshakeError
from nbray.wire.identity import Identity
from nbray.wire.near_calls import Handler, Handlers
from nbray.wire.tls import Tls, TlsSocket

logger = logging.getLogger(__name__)

_SERVICE = "nbray"
_VERSION_KEY = "nbray-version"
_WIRES_KEY = "nbray-wires"
_PROOF_KEY = "nbray-proof"
_OWN_SOFTWARE = str(own_software())
_OPTIONS = [
    ("grpc.max_receive_message_length", 128 << 20),
    ("grpc.max_send_message_length", 128 << 20),
    # A call that was not sent, gRPC itself sends again at once and without end, as long as its
    # channel has not heard that the connection is of no use. Each try takes 9 kB that the call
    # keeps: a thousand calls took gigabytes. `Channel.call` does it in its place.
    ("grpc.enable_retries", 0),
    # A peer that comes back is found at once, one that vanished without a word within seconds.
    ("grpc.initial_reconnect_backoff_ms", 50),
    # The least time that a connection is given to come up, TLS included.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
]
# So many calls of members may wait for their handlers: of more than a thousand, gRPC cancels some.
_WAITING = [
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
]
_SHARED = ("grpc.so_reuseport", 1)
_PASSED_ON_MS = 1000
_REFUSED = grpc.StatusCode.FAILED_PRECONDITION
_STRANGER = "handshake failed"  # in what gRPC says of a server without the token
_EXPLAINED_S = 3.0
_TURNED_AWAY = "GOAWAY received"  # of a call that the server asks to be made on a new connection
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_MOST_CONNECTIONS = 4096
_RETRY_DELAY_S = 0.05
_encode = msgspec.msgpack.Encoder().encode


async def _refuse(context: Any, code: grpc.StatusCode, reason: str) -> NoReturn:
    """Answer a call by an error, with one line in the log."""
    logger.warning("Refused a call of %s: %s.", context.peer(), reason)
    await context.abort(code, reason)
    raise AssertionError("abort raises")


class _VersionCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Whether the caller, who is a member, runs the same software, and has TLS if we have."""

    def __init__(self, wires: str) -> None:
        self._wires = wires

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        told = dict(details.invocation_metadata or ())
        version, wires = told.get(_VERSION_KEY, "none"), told.get(_WIRES_KEY, self._wires)
        if version == _OWN_SOFTWARE and wires == self._wires:
            return await continuation(details)
        if version != _OWN_SOFTWARE:
            other = Software.parse(version)
            reason = own_software().difference(other, "the caller", "this cluster")
        else:
            reason = _OTHER_WIRES[wires == "tls"]

        async def refuse(_request: bytes, context: Any) -> bytes:
            await _refuse(context, _REFUSED, reason)

        return grpc.unary_unary_rpc_method_handler(refuse)


_OTHER_WIRES = (
    "this cluster has TLS: start the node with NBRAY_USE_TLS=1, as the others",
    "this cluster has no TLS: start the node without NBRAY_USE_TLS, or all others with it",
)


@functools.lru_cache(16)  # channels of the same credentials share their connections
def _channel_credentials(own: Identity) -> Any:
    return grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)


def _limits(config: Config) -> list[tuple[str, int]]:
    """How long strangers have for the TLS handshake and the first HTTP/2 frame, and how many.

    Half of the files that this process may open are left for what it does.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = _MOST_CONNECTIONS if files < 0 else min(_MOST_CONNECTIONS, files // 2)
    return [
        ("grpc.server_handshake_timeout_ms", int(config.handshake_timeout_s * 1000)),
        ("grpc.max_allowed_incoming_connections", most),
    ]


class Service:
    """``{method: (request type, handler)}``, served to members.

    Who came before it began is passed on to it, byte by byte, at a port of its own, and told soon
    to connect once more, in HTTP/2's own way: no call is lost by it, and no byte goes through this
    program for longer than that.
    """

    def __init__(self, token: bytes, own: Member, handlers: Handlers) -> None:
        self._own = own
        self._handler = grpc.method_handlers_generic_handler(
            _SERVICE, _methods(token, own, handlers)
        )
        self._servers: list[grpc.aio.Server] = []

    async def listen(self, host: str, port: int, *, passed_on: bool = False) -> int:
        """Serve at a port, which another may share unless it is for those who are passed on.

        Raises:
            OSError: the port is in use.
        """
        own = self._own
        more = ("grpc.max_connection_age_ms", _PASSED_ON_MS) if passed_on else _SHARED
        server = grpc.aio.server(
            interceptors=[_VersionCheck(own.wires)],
            options=[*_OPTIONS, *_WAITING, more, *_limits(Config.from_env())],
        )
        server.add_generic_rpc_handlers((self._handler,))
        shown = own.identity
        members_only = grpc.ssl_server_credentials(
            [(shown.key, shown.certificate)], shown.authority, require_client_auth=True
        )
        try:
            bound: int = server.add_secure_port(joined(host, port), members_only)
        except RuntimeError as error:
            raise OSError(f"port {port} of {host} is in use") from error
        await server.start()
        self._servers.append(server)
        return bound

    async def stop(self, grace: float | None) -> None:
        """Answer no more; calls that are being answered have ``grace`` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


async def service(token: bytes, handlers: Handlers) -> Service:
    """What is to listen, with this process's certificates."""
    return Service(token, await asyncio.to_thread(member_of, token), handlers)


def _methods(token: bytes, own: Member, handlers: Handlers) -> dict[str, Any]:
    return {
        name: grpc.unary_unary_rpc_method_handler(
            _adapt(
                msgspec.msgpack.Decoder(request_type), handler, token if own.proves_token else None
            ),
            response_serializer=_encode,
        )
        for name, (request_type, handler) in handlers.items()
    }


def _adapt(
    decoder: Any, handler: Handler, token: bytes | None
) -> Callable[[bytes, Any], Awaitable[Any]]:
    """A handler as gRPC calls it; with ``token``, of callers who prove that they have it."""

    async def call(body: bytes, context: Any) -> Any:
        if token is not None:
            await _check_proof(token, context)
        try:
            request = decoder.decode(body)
        except MALFORMED as error:
            reason = f"a malformed request: {error}"
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, reason)
        answer = handler(request)
        return await answer if asyncio.iscoroutine(answer) else answer

    return call


async def _check_proof(token: bytes, context: Any) -> None:
    """Whether the caller has the token, and not only a certificate; this side proves it, too."""
    certificate = context.auth_context()["x509_pem_cert"][0]
    given = dict(context.invocation_metadata() or ()).get(_PROOF_KEY, "")
    if not hmac.compare_digest(given, proof(token, "caller", certificate)):
        await _refuse(context, _REFUSED, "it has a certificate of the cluster and a wrong token")
    context.set_trailing_metadata(((_PROOF_KEY, proof(token, "server", certificate)),))


class Channel:
    """Calls the service at ``address`` ("host:port"), as `grpc_service.GrpcClient` says it.

    Attributes:
        met: whether a member has answered there.
    """

    def __init__(self, address: str, token: bytes, patience_s: float) -> None:
        self.address = address
        self._patience_s = patience_s
        own = self._own = member_of(token)
        self._metadata = [(_VERSION_KEY, _OWN_SOFTWARE)]
        if own.wires:
            self._metadata.append((_WIRES_KEY, own.wires))
        self._answered_by = ""
        if own.proves_token:
            self._metadata.append((_PROOF_KEY, own.proof(token, "caller")))
            self._answered_by = own.proof(token, "server")
        self.met = False
        self._closed = False
        options: list[tuple[str, Any]] = list(_OPTIONS)
        if own.target_name:
            options.append(("grpc.ssl_target_name_override", own.target_name))
        self._channel = grpc.aio.secure_channel(
            address, _channel_credentials(own.identity), options=options
        )

    async def call(self, method: str, body: bytes, deadline: float) -> bytes:
        """Send an encoded request and return the encoded reply, by `time.monotonic`'s deadline.

        Once a member has answered at the address, a stranger there is one who took the port: a
        channel with patience waits for the member.

        Raises:
            RefusedError: this process is not of that cluster.
            RpcError: the call failed, or took longer.
        """
        patient = self._patience_s > 0
        while True:
            left = deadline - time.monotonic()
            if self._closed:
                raise RpcError(f"{method} at {self.address}: {CLOSED}")
            try:
                calling = self._channel.unary_unary(f"/{_SERVICE}/{method}")(
                    body, timeout=max(left, 0.001), metadata=self._metadata,
                    wait_for_ready=patient and self.met,
                )  # fmt: skip
                reply: bytes = await calling
            except asyncio.CancelledError:
                # So a channel that is closed ends its calls. Who calls was not cancelled by that.
                task = asyncio.current_task()
                if self._closed and task is not None and not task.cancelling():
                    raise RpcError(f"{method} at {self.address}: {CLOSED}") from None
                raise
            except grpc.aio.AioRpcError as error:
                if _STRANGER in str(error.details()):
                    why = await self._explain() or (
                        "what listens there has a wrong cluster token, or is no nbray process"
                    )
                    raise RefusedError(f"{method} was not sent to {self.address}: {why}") from error
                if not self.met and error.code() in _GONE and (why := await self._explain()):
                    raise RefusedError(f"{self.address} refuses {method}: {why}") from error
                if error.code() is _REFUSED:
                    raise RefusedError(
                        f"{self.address} refuses {method}: {error.details()}"
                    ) from error
                again = error.code() in _GONE and (patient or _TURNED_AWAY in str(error.details()))
                if not again or left < _RETRY_DELAY_S:
                    raise RpcError(f"{method} at {self.address}: {error.details()}") from error
                await asyncio.sleep(_RETRY_DELAY_S)
            else:
                if self._answered_by:
                    await self._check_answer(calling, method)
                self.met = True
                return reply

    async def _check_answer(self, calling: Any, method: str) -> None:
        told = dict(await calling.trailing_metadata() or ())
        if not hmac.compare_digest(told.get(_PROOF_KEY, ""), self._answered_by):
            raise RefusedError(
                f"What answered {method} at {self.address} has a certificate of the cluster's "
                "authority and a wrong token"
            )

    async def _explain(self) -> str:
        """What is wrong with whose certificate; empty if nobody can say."""
        if not self._own.proves_token or self._own.tls is None:
            return ""
        return await asyncio.to_thread(_tls_trouble, self.address, self._own.tls)

    async def close(self) -> None:
        """Close the channel; calls that are on their way fail."""
        self._closed = True
        await self._channel.close()


def _tls_trouble(address: str, tls: Tls) -> str:
    """Why a TLS handshake there fails, which gRPC does not tell; empty: it does not, or nobody is.

    A server that refuses a certificate says so after the handshake: therefore one more look.
    """
    try:
        with socket.create_connection(split(address), _EXPLAINED_S) as plain:
            sock = TlsSocket(plain, tls.connecting())
            sock.send(b"")
            sock.recv(1)
    except HandshakeError as error:
        return str(error)
    except OSError:
        return ""
    return ""
