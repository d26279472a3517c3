"""Messages of a line of JSON each, over a socket on which nobody ever waits."""

from __future__ import annotations

import json
import socket
from typing import Any

_READ_BYTES = 65536


class JsonLines:
    """One end. What the socket does not take at once is kept until it does."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._received = b""
        self._queued = bytearray()

    @property
    def is_waiting(self) -> bool:
        """Whether something is queued: to be sent by `flush` when the socket takes it."""
        return bool(self._queued)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message now, or later."""
        self._queued += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes; when the other side has gone, `receive` tells."""
        try:
            while self._queued:
                del self._queued[: self.socket.send(self._queued)]
        except BlockingIOError:
            return
        except ConnectionError:
            self._queued.clear()
        except OSError:  # the kernel has no memory for it at the moment
            return

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have arrived; None when the other side has gone."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in lines]
