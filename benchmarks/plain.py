"""One plain TCP connection of this machine: what transfers of objects are compared with."""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time


class PlainConnection:
    """Bytes out of one memory file into another, by sendfile and recv_into, without more."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._source = os.memfd_create("source")
        self._target = os.memfd_create("target")
        for file in (self._source, self._target):  # every page is there before it is used
            os.ftruncate(file, size)
            os.posix_fallocate(file, 0, size)
        self._view = memoryview(mmap.mmap(self._target, size))

    def seconds(self) -> float:
        """How long all of it takes."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            sending = socket.create_connection(server.getsockname())
            receiving, _ = server.accept()

        def send() -> None:
            sent = 0
            while sent < self._size:
                sent += os.sendfile(sending.fileno(), self._source, sent, self._size - sent)

        with sending, receiving:
            begun = time.perf_counter()
            thread = threading.Thread(target=send)
            thread.start()
            came = 0
            while came < self._size:
                came += receiving.recv_into(self._view[came:], 0, socket.MSG_WAITALL)
            thread.join()
            return time.perf_counter() - begun
