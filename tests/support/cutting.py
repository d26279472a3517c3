"""Where this process is reached, and how connections of other processes are cut."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator

import psutil
import pytest

from nbray.core_worker.current import find_core

_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_LIBC = ctypes.CDLL(None, use_errno=True)


def my_port() -> int:
    """The TCP port at which this driver or worker listens."""
    core = find_core()
    assert core is not None
    return core.peers.address.port


def cut_between(one: int, other: int) -> int:
    """End every connection between two living processes; returns how many there were.

    Neither has closed anything: both find that the socket is dead.
    """
    count = 0
    ports = _tcp_pairs(other)
    for sock in _sockets_of(one):
        with sock, contextlib.suppress(OSError):
            if sock.family == socket.AF_UNIX:
                cred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                is_it = struct.unpack("iII", cred)[0] == other
            else:
                is_it = (sock.getpeername()[1], sock.getsockname()[1]) in ports
            if is_it:
                sock.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def _tcp_pairs(pid: int) -> set[tuple[int, int]]:
    """Own and other port of each connection of a process."""
    found = psutil.Process(pid).net_connections("tcp")
    return {(one.laddr.port, one.raddr.port) for one in found if one.raddr}


def _sockets_of(pid: int) -> Iterator[socket.socket]:
    """The connected stream sockets of another process, as this one's."""
    handle = _call(_PIDFD_OPEN, pid, 0)
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile, or no socket
                if not os.readlink(f"/proc/{pid}/fd/{entry}").startswith("socket:"):
                    continue
                sock = socket.socket(fileno=_call(_PIDFD_GETFD, handle, int(entry), 0))
                if sock.type == socket.SOCK_STREAM and not _listens(sock):
                    yield sock
                else:
                    sock.close()
    finally:
        os.close(handle)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _call(number: int, *words: int) -> int:
    result: int = _LIBC.syscall(number, *words)
    if result < 0:
        code = ctypes.get_errno()
        if code == 1:  # not permitted
            pytest.skip("sockets of other processes can be cut by root, or without ptrace_scope")
        raise OSError(code, os.strerror(code))
    return result
