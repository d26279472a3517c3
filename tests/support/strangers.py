"""Peers that are none of the cluster's."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def eavesdropper() -> Iterator[tuple[str, list[bytes]]]:
    """A port where somebody listens, answers nothing, and keeps what is said; its address."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        with contextlib.suppress(OSError):  # the end of the listener
            while True:
                sock, _ = listener.accept()
                sock.settimeout(10.0)  # a caller may be slow to begin
                with sock, contextlib.suppress(OSError):
                    while data := sock.recv(65536):
                        heard.append(data)
                        sock.settimeout(0.5)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side ends the connection, whatever comes before, within the time limit."""
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True
