"""`kubectl port-forward` against `kube_api`: SPDY 3.1 inside of a WebSocket, as kubectl speaks it.

For each connection kubectl opens two streams with one request id, ``error`` and ``data``. The
latter is led to the port in the pod; an error is a text on the former.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

import tornado.websocket

from support.kube_exec import PodSocket

if TYPE_CHECKING:
    from support.kube_api import KubeApi

PATH = r"/api/v1/namespaces/[^/]+/pods/([^/]+)/portforward"
_SYN_STREAM, _SYN_REPLY, _RESET, _PING = 1, 2, 3, 6
_FIN = 1
_WORDS = """options head post put delete trace accept accept-charset accept-encoding accept-language
accept-ranges age allow authorization cache-control connection content-base content-encoding
content-language content-length content-location content-md5 content-range content-type date etag
expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since
last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer
retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate
method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin"""
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00"
    " Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age="
    "gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    """What both sides compress headers with: the protocol fixes it."""
    words = [word.replace("_", " ").encode() for word in _WORDS.split()]
    return b"".join(struct.pack(">I", len(word)) + word for word in words) + _REST.encode()


class Forward(PodSocket):
    """All connections of one kubectl."""

    versions = ("SPDY/3.1+portforward.k8s.io",)

    def initialize(self, api: KubeApi) -> None:
        super().initialize(api)
        self._given = bytearray()
        self._reads = zlib.decompressobj(zdict=_dictionary())
        self._writes = zlib.compressobj(zdict=_dictionary())
        self._errors: dict[str, int] = {}
        self._data: dict[int, asyncio.Queue[bytes]] = {}
        self._work: set[asyncio.Task[None]] = set()

    async def open(self, *args: str, **_kwargs: str) -> None:
        self._pod = args[0]

    async def on_message(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        self._given += message
        while len(self._given) >= 8:
            size = int.from_bytes(self._given[5:8], "big")
            if len(self._given) < 8 + size:
                return
            head, body = bytes(self._given[:8]), bytes(self._given[8 : 8 + size])
            del self._given[: 8 + size]
            await self._frame(head, body)

    async def _frame(self, head: bytes, body: bytes) -> None:
        flags = head[4]
        if not head[0] & 0x80:
            queue = self._data.get(int.from_bytes(head[:4], "big"))
            if queue is not None:
                if body:
                    queue.put_nowait(body)
                if flags & _FIN:
                    queue.put_nowait(b"")
            return
        kind = int.from_bytes(head[2:4], "big")
        stream = int.from_bytes(body[:4], "big")
        if kind == _SYN_STREAM:
            headers = self._read_headers(body[10:])
            packed = self._writes.compress(struct.pack(">I", 0))
            packed += self._writes.flush(zlib.Z_SYNC_FLUSH)
            await self._control(_SYN_REPLY, struct.pack(">I", stream) + packed)
            if headers["streamtype"] == "error":
                self._errors[headers["requestid"]] = stream
            else:
                self._data[stream] = asyncio.Queue()
                error = self._errors[headers["requestid"]]
                task = asyncio.create_task(self._connect(stream, error, int(headers["port"])))
                self._work.add(task)
                task.add_done_callback(self._work.discard)
        elif kind == _RESET and stream in self._data:
            self._data[stream].put_nowait(b"")
        elif kind == _PING:
            await self._control(_PING, body)

    def _read_headers(self, packed: bytes) -> dict[str, str]:
        plain = self._reads.decompress(packed)
        count, at = int.from_bytes(plain[:4], "big"), 4
        texts = []
        for _ in range(2 * count):
            size = int.from_bytes(plain[at : at + 4], "big")
            texts.append(plain[at + 4 : at + 4 + size].decode())
            at += 4 + size
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def _control(self, kind: int, body: bytes) -> None:
        head = struct.pack(">HHI", 0x8003, kind, len(body))
        await self._send(head + body)

    async def _say(self, stream: int, data: bytes, flags: int = 0) -> None:
        await self._send(struct.pack(">II", stream, flags << 24 | len(data)) + data)

    async def _send(self, frame: bytes) -> None:
        with suppress(tornado.websocket.WebSocketClosedError):
            await self.write_message(frame, binary=True)

    async def _connect(self, stream: int, error: int, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock: socket.socket = await loop.run_in_executor(
                None, self.api.connect_in, self._pod, port
            )
            reader, writer = await asyncio.open_connection(sock=sock)
        except (KeyError, OSError) as failed:
            await self._say(error, f"no way to port {port}: {failed}".encode(), _FIN)
            await self._say(stream, b"", _FIN)
            return

        async def there() -> None:
            while part := await self._data[stream].get():
                writer.write(part)
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(there())
        try:
            with suppress(ConnectionError):
                while part := await reader.read(1 << 16):
                    await self._say(stream, part)
            await self._say(stream, b"", _FIN)
            await self._say(error, b"", _FIN)
        finally:
            sending.cancel()
            writer.close()
            self._data.pop(stream, None)

    def on_close(self) -> None:
        for task in self._work:
            task.cancel()
