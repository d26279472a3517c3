"""Connections that are cut, held up and let go in another order."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterable
from types import TracebackType

Place = str | tuple[str, int]
_ABORT = struct.pack("ii", 1, 0)


def cut(port: int) -> int:
    """End every TCP connection of this process to or from a port; returns how many there were.

    Neither side has closed anything: both just find that the socket is dead, as by a cut cable.

    Args:
        port: a TCP port of either side.

    Returns:
        How many were ended.

    Examples:
        >>> import socket
        >>> from nbray.testing import cut
        >>> server = socket.create_server(("127.0.0.1", 0))
        >>> client = socket.create_connection(server.getsockname())
        >>> cut(server.getsockname()[1])
        1
        >>> client.close(), server.close()
        (None, None)
    """
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(entry)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as sock:
                if sock.family != socket.AF_INET or sock.type != socket.SOCK_STREAM:
                    continue
                if port in (sock.getpeername()[1], sock.getsockname()[1]):
                    sock.shutdown(socket.SHUT_RDWR)
                    count += 1
    return count


class Proxied:
    """One connection through a `Proxy`: bytes go on at once, later, when they may, or never.

    Args:
        near: the socket of who connected.
        far: the socket to whom it connected.

    Examples:
        >>> import socket, time
        >>> from nbray.testing import Proxied
        >>> (near, a), (b, far) = socket.socketpair(), socket.socketpair()
        >>> connection = Proxied(a, b)
        >>> near.sendall(b"hello")
        >>> far.recv(100)
        b'hello'
        >>> connection.cut()
        >>> connection.is_cut, far.recv(100)
        (True, b'')
    """

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._sockets = (near, far)
        self._may_pass = threading.Event()
        self._may_pass.set()
        self._ended = threading.Event()
        self._delay_s = 0.0
        self.threads = [
            threading.Thread(target=self._pump, args=pair, daemon=True)
            for pair in ((near, far), (far, near))
        ]
        for thread in self.threads:
            thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the connection has ended
            while data := source.recv(1 << 16):
                if self._delay_s and self._ended.wait(self._delay_s):
                    return
                self._may_pass.wait()
                if self._ended.is_set():
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    @property
    def is_cut(self) -> bool:
        """Whether `cut` ended it."""
        return self._ended.is_set()

    def hold(self) -> None:
        """Keep back what comes from now on, in both directions; nothing of it is lost."""
        self._may_pass.clear()

    def release(self) -> None:
        """Let go what was held."""
        self._may_pass.set()

    def delay(self, seconds: float) -> None:
        """Let everything that comes from now on arrive later by ``seconds``; 0.0: at once.

        Args:
            seconds: how much later.
        """
        self._delay_s = seconds

    def cut(self) -> None:
        """End it: what was on its way is lost, and both sides find that the socket is dead."""
        self._ended.set()
        self._may_pass.set()
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # a side that closed it already
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give its sockets back, after its threads have ended."""
        for sock in self._sockets:
            sock.close()


class Proxy:
    """Stands between two processes, over loopback or a Unix socket, and spoils their connections.

    Bytes of one connection never change their order, as the kernel keeps it; those of several do,
    when they are held and let go in another order.

    Args:
        target: the place that is connected to: a host and port, or the path of a Unix socket.
        path: where it listens as a Unix socket; a free port of 127.0.0.1 by default.

    Attributes:
        place: where it listens.
        connections: those that were made through it, in the order in which they were.

    Examples:
        ```python
        import socket
        from nbray.testing import Proxy

        with socket.create_server(("127.0.0.1", 0)) as server:
            with Proxy(server.getsockname()) as proxy:
                client = socket.create_connection(proxy.place)
                peer, _ = server.accept()
                client.sendall(b"before")
                assert peer.recv(100) == b"before"
                proxy.cut()
                peer.settimeout(10)
                try:
                    assert peer.recv(100) == b""
                except ConnectionResetError:
                    pass
                client.close()
                peer.close()
        ```
    """

    def __init__(self, target: Place, path: str = "") -> None:
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._listener.bind(path or ("127.0.0.1", 0))
        self._listener.listen(128)
        self.place: Place = path or self._listener.getsockname()
        self.connections: list[Proxied] = []
        self._refuses = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener has ended
            while True:
                near, _ = self._listener.accept()
                if self._refuses:
                    near.close()
                    continue
                far = socket.socket(
                    socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
                )
                try:
                    far.connect(self._target)
                except OSError:  # nobody is there, as who connects finds out
                    near.close()
                    far.close()
                    continue
                with self._lock:  # bytes pass before it is made, and may bring a cut about
                    self.connections.append(Proxied(near, far))

    def _made(self) -> list[Proxied]:
        with self._lock:
            return list(self.connections)

    def cut(self) -> int:
        """Cut all connections; returns how many lived. New ones may be made."""
        living = [one for one in self._made() if not one.is_cut]
        for one in living:
            one.cut()
        return len(living)

    def refuse(self, refuses: bool = True) -> None:
        """Let nobody connect any more, or again; what is connected stays.

        Args:
            refuses: False lets them connect again.
        """
        self._refuses = refuses

    def hold(self) -> None:
        """Keep back all bytes of the connections that there are."""
        for one in self._made():
            one.hold()

    def release(self, order: Iterable[int] | None = None) -> None:
        """Let go what is held, by the numbers of connections; in their own order by default.

        Args:
            order: numbers of connections; None: all, as they were made.
        """
        for number in range(len(self.connections)) if order is None else order:
            self.connections[number].release()

    def delay(self, seconds: float) -> None:
        """Let all that comes over the connections that there are arrive later by ``seconds``.

        Args:
            seconds: how much later.
        """
        for one in self.connections:
            one.delay(seconds)

    def close(self) -> None:
        """End it with all its connections."""
        with contextlib.suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()
        for one in self.connections:
            for thread in one.threads:
                thread.join()
            one.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()
