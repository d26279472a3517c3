"""`kubectl exec`, `cp` and `attach` against `kube_api`: the WebSocket protocol of an API server.

Messages are binary: a channel (stdin, stdout, stderr, the end, a terminal's size), then bytes. Of
version 5 a message of channel 255 closes stdin; older ones cannot say that.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import tornado.web
import tornado.websocket

if TYPE_CHECKING:
    from support.kube_api import KubeApi

PATH = r"/api/v1/namespaces/[^/]+/pods/([^/]+)/(?:exec|attach)"
_STDIN, _STDOUT, _STDERR, _END, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255


def status(code: int) -> bytes:
    """How a command ended, as the API says it."""
    if code == 0:
        return json.dumps({"metadata": {}, "status": "Success"}).encode()
    return json.dumps({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "code": 500,
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }).encode()  # fmt: skip


class PodSocket(tornado.websocket.WebSocketHandler):
    """A way into a pod, for who brings the token."""

    versions: tuple[str, ...]
    """Of its protocol, the best first."""

    def initialize(self, api: KubeApi) -> None:
        self.api = api

    def check_origin(self, origin: str) -> bool:
        return True

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return next((one for one in self.versions if one in subprotocols), None)

    def prepare(self) -> None:
        self.api.requests.append(f"{self.request.method} {self.request.path}")
        given = self.request.headers.get("Authorization", "")
        if self.api.token and given != f"Bearer {self.api.token}":
            raise tornado.web.HTTPError(401)


class Exec(PodSocket):
    """One command in a pod."""

    versions = ("v5.channel.k8s.io", "v4.channel.k8s.io")

    def initialize(self, api: KubeApi) -> None:
        super().initialize(api)
        self._process: asyncio.subprocess.Process | None = None
        self._terminal = -1
        self._early: list[bytes] = []

    async def open(self, *args: str, **_kwargs: str) -> None:
        pod = args[0]
        self._work = asyncio.create_task(self._run(pod, self.get_arguments("command")))

    async def _run(self, pod: str, words: list[str]) -> None:
        tty = self.get_argument("tty", "") in ("1", "true")
        try:
            line = self.api.run_in(pod, words)
        except (KeyError, OSError) as error:
            failed = {"metadata": {}, "status": "Failure", "message": f"{pod}: {error}"}
            await self._say(_END, json.dumps(failed).encode())
            self.close(1000)
            return
        if tty:
            await self._run_in_terminal(line)
        else:
            self._process = await asyncio.create_subprocess_exec(
                *line, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            for early in self._early:
                await self.on_message(early)
            both = ((self._process.stdout, _STDOUT), (self._process.stderr, _STDERR))
            await asyncio.gather(*(self._pass_on(stream, channel) for stream, channel in both))
        assert self._process is not None
        code = await self._process.wait()
        await self._say(_END, status(code if code >= 0 else 128 - code))
        self.close(1000)

    async def _run_in_terminal(self, line: list[str]) -> None:
        self._terminal, other = pty.openpty()

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._process = await asyncio.create_subprocess_exec(
            *line, stdin=other, stdout=other, stderr=other, preexec_fn=own_terminal
        )
        os.close(other)
        for early in self._early:
            await self.on_message(early)
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # the terminal's end
            while part := await loop.run_in_executor(None, os.read, self._terminal, 1 << 16):
                await self._say(_STDOUT, part)

    async def _pass_on(self, stream: Any, channel: int) -> None:
        while part := await stream.read(1 << 16):
            await self._say(channel, part)

    async def _say(self, channel: int, data: bytes) -> None:
        with suppress(tornado.websocket.WebSocketClosedError):
            await self.write_message(bytes([channel]) + data, binary=True)

    async def on_message(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        if self._process is None:
            self._early.append(message)
            return
        channel, data = message[0], message[1:]
        if channel == _STDIN and self._terminal >= 0:
            os.write(self._terminal, data)
        elif channel == _STDIN and self._process.stdin is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._process.stdin.write(data)
                await self._process.stdin.drain()
        elif channel == _CLOSE and data[:1] == b"\0" and self._process.stdin is not None:
            self._process.stdin.close()
        elif channel == _RESIZE and self._terminal >= 0:
            size = json.loads(data)
            packed = struct.pack("HHHH", size["Height"], size["Width"], 0, 0)
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, packed)

    def on_close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
