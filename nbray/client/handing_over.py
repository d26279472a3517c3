"""How the gateway hands a driver's connection to a process of this node: a shortcut.

Nothing of it is read here: the driver says nothing before it was told that the process has it.
Afterwards the connection to the process stays, as the sign that the driver is one of the cluster.
Whichever ends, this or what was handed over, ends the other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from nbray.wire.handshake import ClientHandshake
from nbray.wire.link import Answer, handover
from nbray.wire.tunnel_messages import READY

logger = logging.getLogger(__name__)

_PROOF_BYTES = 4096  # more than a handshake has


async def hand_over(
    transport: asyncio.Transport, unix_path: str, token: bytes, patience_s: float, limit_s: float
) -> None:
    """Hand a driver's connection over, and return when the process has ended it.

    Args:
        transport: the connection, which is closed here.
        unix_path: where the process listens.
        token: the cluster's secret, which either proves.
        patience_s: how long the driver may be away.
        limit_s: so long the process has to take it.
    """
    if transport.is_closing():
        return
    transport.pause_reading()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            async with asyncio.timeout(limit_s):
                await _prove(sock, unix_path, token)
                descriptor = os.dup(transport.get_extra_info("socket").fileno())
                try:
                    socket.send_fds(sock, [handover(patience_s)], [descriptor])
                finally:
                    os.close(descriptor)
                answer = await _exactly(sock, Answer.SIZE)
            if not Answer.unpack(answer).accepted:
                raise ConnectionError("it does not take connections over")
            transport.write(READY)
            transport.close()
            await asyncio.get_running_loop().sock_recv(sock, 1)
    except (OSError, TimeoutError) as error:
        logger.info("A connection was not handed to %s: %s", unix_path, error)
    finally:
        transport.abort()


async def _prove(sock: socket.socket, unix_path: str, token: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, unix_path)
    handshake = ClientHandshake(token, sock.getpeername)
    rest = None
    while rest is None:  # nothing follows: it speaks next when it has a descriptor
        answer, rest = handshake.feed(await _some(sock, _PROOF_BYTES))
        await loop.sock_sendall(sock, answer)


async def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await _some(sock, size - len(data))
    return data


async def _some(sock: socket.socket, most: int) -> bytes:
    """What comes, at most so many bytes.

    Raises:
        OSError: it has closed before.
    """
    data = await asyncio.get_running_loop().sock_recv(sock, most)
    if not data:
        raise ConnectionError("it closed the connection")
    return data
