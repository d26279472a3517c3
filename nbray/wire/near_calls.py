"""The calls of the GCS and the raylets of its machine: over a Unix socket, without gRPC.

A call by gRPC costs half a millisecond of the processor's time on either side, most of it for TLS
and HTTP/2, which two processes of one machine need not speak. So whoever serves calls
(`grpc_service`) listens on a Unix socket of its session folder, too, and who finds that socket
calls there. Nothing depends on it: a call that finds nobody there, or loses its connection, is made
by gRPC, which waits, explains, and finds who is elsewhere.

A frame is a little-endian 32-bit length and a MessagePack list of a number, a text and a body. A
request names its method in the text, an answer says what went wrong there, if anything. A request
without a method takes the one of that number back. What a server tells unasked has the number 0;
it comes in one order with the answers. Both sides prove before that they have the
cluster's token (`handshake`).
"""

from __future__ import annotations

import asyncio
import logging
import select
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import msgspec

from nbray.common.sparing_log import SparingLog
from nbray.wire.accepting import Accepting, accept_unix
from nbray.wire.frames import MALFORMED
from nbray.wire.handshake import ClientHandshake, HandshakeError, ServerHandshake

logger = logging.getLogger(__name__)
_strangers = SparingLog(logger)

MOST_BYTES = 128 << 20
"""The longest frame: as long as a message of gRPC may be here."""

_LENGTH = struct.Struct("<I")
_HANDSHAKE_S = 5.0
_LOOK_AGAIN_S = 0.1
_LONGEST_LOOK_S = 5.0
_BACK_IN_S = 5.0
_Frame = tuple[int, str, bytes]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Frame).decode
Handler = Callable[[Any], Any]
"""Gives the answer, or a coroutine of it."""
Handlers = dict[str, tuple[Any, Handler]]


class NearCallError(Exception):
    """A call failed on the other side, which says why."""


class MalformedRequestError(Exception):
    """A request is not what its method takes."""


class _Stream(asyncio.Protocol):
    """One end of a connection: a handshake, then frames."""

    def __init__(self) -> None:
        self._handshake: ServerHandshake | ClientHandshake | None = None
        self._buffer = bytearray()
        self._needed = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            if self._handshake is not None:
                answer, rest = self._handshake.feed(data)
                self.write(answer)
                if rest is None:
                    return
                self._handshake = None
                self.is_open()
                data = rest
            self._take(data)
        except (HandshakeError, *MALFORMED) as error:
            _strangers.warning("Closed a connection of this machine: %s.", error)
            self.close()

    def _take(self, data: bytes) -> None:
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._needed:
                return
            data = bytes(buffer)
            buffer.clear()
        start, size = 0, len(data)
        while size - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > MOST_BYTES:
                raise HandshakeError(f"a frame of {length} bytes was announced")
            end = start + _LENGTH.size + length
            if end > size:
                self._needed = end - start
                break
            self.came(*_decode(memoryview(data)[start + _LENGTH.size : end]))
            start = end
        buffer += data[start:]

    def is_open(self) -> None:
        """The handshake is done."""

    def came(self, number: int, text: str, body: bytes) -> None:
        """A frame has come."""
        raise NotImplementedError

    def send(self, number: int, text: str, body: bytes) -> bool:
        """Send a frame; False when it is too long."""
        frame = _encode((number, text, body))
        if len(frame) > MOST_BYTES:
            return False
        self.write(_LENGTH.pack(len(frame)) + frame)
        return True

    def write(self, data: bytes) -> None:
        """Send bytes, unless the other side has gone."""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """End the connection."""
        if self.transport is not None:
            self.transport.abort()


class _Served(_Stream):
    """A caller."""

    def __init__(self, server: NearServer, token: bytes) -> None:
        super().__init__()
        self._server = server
        self._token = token
        self._running: dict[int, asyncio.Task[Any]] = {}
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)
        handshake = ServerHandshake(self._token, transport.get_extra_info("sockname"))
        self._handshake = handshake
        self.write(handshake.hello)
        self._deadline = asyncio.get_running_loop().call_later(_HANDSHAKE_S, self.close)

    def is_open(self) -> None:
        self._overdue()

    def _overdue(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, _exc: Exception | None) -> None:
        self._overdue()
        self._server.connections.discard(self)
        running, self._running = self._running, {}
        for task in running.values():
            task.cancel()

    def came(self, number: int, text: str, body: bytes) -> None:
        if not text:
            task = self._running.pop(number, None)
            if task is not None:
                task.cancel()
            return
        try:
            found = self._server.call(text, body)
            if asyncio.iscoroutine(found):
                task = self._running[number] = asyncio.get_running_loop().create_task(found)
                task.add_done_callback(partial(self._done, number, text))
            else:
                self._answer(number, _encode(found))
        except MalformedRequestError as error:
            logger.warning("Refused a call of this machine: %s.", error)
            self.send(number, str(error), b"")
        except Exception as error:
            self._failed(number, text, error)

    def tell(self, kind: str, body: bytes) -> None:
        """Tell a caller something, if it has proved itself: before that, it was told nothing."""
        if self._handshake is None:
            self.send(0, kind, body)

    def _done(self, number: int, method: str, task: asyncio.Task[Any]) -> None:
        wanted = self._running.pop(number, None) is not None
        try:
            self._answer(number, _encode(task.result()))
        except asyncio.CancelledError:  # as what it waited for itself may have been
            if wanted:
                self.send(number, "It was given up there.", b"")
        except Exception as error:
            self._failed(number, method, error)

    def _answer(self, number: int, reply: bytes) -> None:
        if not self.send(number, "", reply):
            self.send(number, f"The answer has {len(reply)} bytes, which is too long.", b"")

    def _failed(self, number: int, method: str, error: Exception) -> None:
        logger.warning("%s failed: %r", method, error, exc_info=error)
        self.send(number, f"{type(error).__name__}: {error}", b"")


class NearServer:
    """Answers the calls that come by a Unix socket; see `serve_near`."""

    def __init__(self, handlers: Handlers) -> None:
        self.connections: set[_Served] = set()
        self._methods = {
            name: (msgspec.msgpack.Decoder(request_type), handler)
            for name, (request_type, handler) in handlers.items()
        }
        self._listening: Accepting | None = None
        self._again: asyncio.TimerHandle | None = None

    def listen(self, path: str, token: bytes, pause_s: float = 0.0) -> None:
        """Listen at ``path``, as soon as that can be; until then calls come by gRPC.

        What is left there of a process that has ended is replaced.
        """
        pause_s = min(2 * pause_s, _LONGEST_LOOK_S) or _LOOK_AGAIN_S
        try:
            self._listening = accept_unix(path, lambda: _Served(self, token))
        except OSError as error:
            logger.warning("Calls of this machine come by gRPC for now: %s: %s", path, error)
            loop = asyncio.get_running_loop()
            self._again = loop.call_later(pause_s, self.listen, path, token, pause_s)

    def call(self, method: str, body: bytes) -> Any:
        """The answer to an encoded request, or a coroutine of it.

        Raises:
            MalformedRequestError: there is no such method, or it takes something else.
        """
        known = self._methods.get(method)
        if known is None:
            raise MalformedRequestError(f"there is no method {method}")
        decoder, handler = known
        try:
            request = decoder.decode(body)
        except MALFORMED as error:
            raise MalformedRequestError(f"a malformed request: {error}") from error
        return handler(request)

    def close(self) -> None:
        """Answer no more; calls that are being answered are given up."""
        if self._again is not None:
            self._again.cancel()
        if self._listening is not None:
            self._listening.close()
        for connection in list(self.connections):
            connection.close()

    def tell(self, kind: str, body: bytes) -> None:
        """Tell all callers something unasked: it reaches them before any answer from now on."""
        for connection in self.connections:
            connection.tell(kind, body)


def serve_near(path: str, token: bytes, handlers: Handlers) -> NearServer:
    """Serve ``{method: (request type, handler)}`` to members on this machine."""
    server = NearServer(handlers)
    server.listen(path, token)
    return server


Then = Callable[[bytes | None, str], None]
"""Gets an answer, or what went wrong there; neither if it cannot come by this way."""


class _Caller(_Stream):
    """A connection to who answers."""

    def __init__(self, token: bytes, told: Callable[[str, bytes], None]) -> None:
        super().__init__()
        self._token = token
        self._told = told
        self._unread = select.poll()
        self._numbers = 0
        self._waiting: dict[int, Then] = {}
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[bool] = loop.create_future()
        self.closed = False
        self.lost = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._handshake = ClientHandshake(self._token, lambda: peer)

    def is_open(self) -> None:
        self.opened.set_result(True)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True
        self.lost = asyncio.get_running_loop().time()
        if not self.opened.done():
            self.opened.set_result(False)
        waiting, self._waiting = self._waiting, {}
        for then in waiting.values():
            try:
                then(None, "")
            except Exception:  # the others have to hear of it, too
                logger.exception("The end of a connection was not heard by who had asked.")

    def ask(self, method: str, body: bytes, then: Then) -> int:
        """Send a request, of which ``then`` hears once; its number, 0 if it is too long."""
        number = self._numbers + 1
        if not self.send(number, method, body):
            return 0
        self._numbers = number
        self._waiting[number] = then
        return number

    async def call(self, method: str, body: bytes, timeout: float) -> bytes | None:
        """The answer; None when it cannot come by this way. Raises as `NearCalls.call`."""
        answered: asyncio.Future[tuple[bytes | None, str]]
        answered = asyncio.get_running_loop().create_future()

        def came(reply: bytes | None, error: str) -> None:
            if not answered.done():
                answered.set_result((reply, error))

        number = self.ask(method, body, came)
        if not number:
            return None
        try:
            async with asyncio.timeout(timeout):
                reply, error = await answered
        except BaseException:  # of a timeout, or of who has the caller cancelled
            if self._waiting.pop(number, None) is not None:
                self.send(number, "", b"")
            raise
        if error:
            raise NearCallError(error)
        return reply

    @property
    def is_heard(self) -> bool:
        """Whether the other side is there, and all that it has said has been taken in."""
        return not self.closed and not self._unread.poll(0)

    def came(self, number: int, text: str, body: bytes) -> None:
        if not number:
            self._told(text, body)
            return
        then = self._waiting.pop(number, None)
        if then is not None:
            then(None if text else body, text)


class NearCalls:
    """Calls who listens at ``path``, if anybody does.

    Attributes:
        on_told: gets what the other side tells unasked.
    """

    def __init__(self, path: str, token: bytes) -> None:
        self.on_told: Callable[[str, bytes], None] = lambda kind, body: None
        self._path = path
        self._token = token
        self._caller: _Caller | None = None
        self._connecting: asyncio.Task[_Caller | None] | None = None
        self._opening: _Caller | None = None
        self._pause_s = _LOOK_AGAIN_S
        self._look_at = 0.0
        self._closed = False

    async def call(self, method: str, body: bytes, timeout: float) -> bytes | None:
        """The answer; None when nobody is there, or goes before it has answered.

        Raises:
            NearCallError: the other side could not do it.
            TimeoutError: it took longer.
        """
        caller = self._caller
        if caller is None or caller.closed:
            async with asyncio.timeout(timeout):
                caller = await self._found()
            if caller is None:
                return None
        return await caller.call(method, body, timeout)

    def ask(self, method: str, body: bytes, then: Then) -> bool:
        """The same for who does not wait: ``then`` hears of it. False when nobody is there now."""
        caller = self._caller
        return caller is not None and not caller.closed and caller.ask(method, body, then) > 0

    @property
    def connection(self) -> object | None:
        """The connection: as long as it is the same one, nothing that was told is missing."""
        return self._caller

    @property
    def heard(self) -> object | None:
        """The same, if it stands and all that was said on it has been taken in; else None."""
        caller = self._caller
        return caller if caller is not None and caller.is_heard else None

    @property
    def may_come_back(self) -> bool:
        """Whether who was there has gone a moment ago: it is on this machine, and starts again."""
        caller = self._caller
        if caller is None or not caller.closed or self._closed:
            return False
        return asyncio.get_running_loop().time() < caller.lost + _BACK_IN_S

    async def _found(self) -> _Caller | None:
        if self._connecting is None:
            loop = asyncio.get_running_loop()
            if self._closed or loop.time() < self._look_at:
                return None
            self._connecting = loop.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Caller | None:
        """A connection; who is not there is looked for again after a while, then rarely."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                _, caller = await loop.create_unix_connection(
                    lambda: _Caller(self._token, lambda *told: self.on_told(*told)), self._path
                )
                self._opening = caller
                if await caller.opened and not self._closed:
                    self._opening, self._caller, self._pause_s = None, caller, _LOOK_AGAIN_S
                    return caller
        except (OSError, TimeoutError) as error:
            logger.debug("Nobody answers at %s: %s", self._path, error)
        finally:  # also of who stands still, and would keep one for each look
            self._connecting = None
            self._close_opening()
        self._look_at = loop.time() + self._pause_s
        if not self.may_come_back:
            self._pause_s = min(2 * self._pause_s, _LONGEST_LOOK_S)
        return None

    def close(self) -> None:
        """End the connection; calls that are on their way have no answer."""
        self._closed = True
        self._close_opening()
        if self._caller is not None:
            self._caller.close()

    def _close_opening(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.close()
