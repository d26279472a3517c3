"""``python -m nbray.client.gateway``: the process of the head node that remote drivers come to.

The head's raylet holds the listening sockets and starts this process when the first driver
connects; it leaves when no driver has been here for a while. A stranger gets as far as the
handshake, with a bound on how many there are and on their time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any, cast

import uvloop

from nbray.client.carrier import PING_S, TransportWire, TunnelError
from nbray.client.entrance import Admitting
from nbray.client.packages import different, own_packages
from nbray.client.remote_driver import RemoteDriver
from nbray.common.config import Config
from nbray.common.presence import Presence
from nbray.common.process import (
    allow_many_files,
    give_large_blocks_back,
    report_ready,
    watch_parent,
)
from nbray.common.session import Session
from nbray.common.sparing_log import SparingLog
from nbray.wire import tcp
from nbray.wire.accepting import Accepting
from nbray.wire.aio_tls import accepting_with, binding_in
from nbray.wire.handshake import HandshakeError
from nbray.wire.listener import MOST_HALF_OPEN
from nbray.wire.tls import Tls
from nbray.wire.tunnel_messages import Farewell, Knock, Shortcut, Welcome, packed

logger = logging.getLogger(__name__)
_strangers = SparingLog(logger)

_LONGEST_GRACE_S = 24 * 3600.0
_MOST_BURIED = 1000
_BURIED = "the driver has gone"


class Gateway:
    """All remote drivers of a cluster."""

    def __init__(self, session: Session, config: Config) -> None:
        self.session = session
        self.config = config
        self.token = session.token
        self.tls = Tls.of(session.path)
        self._packages = own_packages()
        self._drivers: dict[bytes, RemoteDriver] = {}
        self._buried: deque[bytes] = deque(maxlen=_MOST_BURIED)
        self._half_open: OrderedDict[_Caller, None] = OrderedDict()
        self.connected = Presence()
        self.last_use = asyncio.get_running_loop().time()

    @property
    def is_idle(self) -> bool:
        """Whether nobody is here."""
        return not self._drivers and not self._half_open

    def came(self, caller: _Caller) -> None:
        """Somebody has connected; with too many that have proved nothing the oldest goes."""
        self.connected.came(caller)
        if len(self._half_open) >= MOST_HALF_OPEN:
            oldest, _ = self._half_open.popitem(last=False)
            oldest.end("too many have no handshake yet")
        self._half_open[caller] = None

    def settled(self, caller: _Caller) -> None:
        """That one has proved itself, or has gone."""
        self._half_open.pop(caller, None)

    def admit(self, knock: Knock) -> tuple[RemoteDriver | None, Welcome]:
        """The driver that knocks, and what it is told."""
        driver = self._drivers.get(knock.tunnel)
        if knock.tunnel in self._buried:  # it was on its way for longer than the farewell
            return None, Welcome(refused=_BURIED)
        if driver is None and knock.known:
            return None, Welcome(
                refused="the gateway does not know this driver any more: it was out of reach for "
                "too long, or the gateway was started again"
            )
        if driver is None:
            grace_s = min(max(0.0, knock.grace_s), _LONGEST_GRACE_S)
            try:
                info = self.session.read_info()
                driver = RemoteDriver(
                    self.session, info, self.token, self.config, knock.worker_id, grace_s,
                    lambda: self._gone(knock.tunnel),
                )  # fmt: skip
            except (OSError, ValueError) as error:
                return None, Welcome(refused=f"the gateway can take no driver now: {error}")
            self._drivers[knock.tunnel] = driver
            logger.info("A driver has come: %s.", knock.worker_id.hex()[:12])
        return driver, Welcome(
            "", driver.carrier.tunnel.received, driver.grace_s, driver.unix_path, driver.host,
            driver.port, json.dumps(driver.info).encode(), self.session.path.name,
            different(knock.packages, self._packages),
        )  # fmt: skip

    def shorten(self, asked: Shortcut, transport: asyncio.Transport) -> None:
        """Hand the connection of a driver to a process.

        Raises:
            HandshakeError: there is no such driver, or the connection is none that can be handed.
        """
        driver = self._drivers.get(asked.tunnel)
        sock = transport.get_extra_info("socket")
        if driver is None or self.tls is not None or sock.family == socket.AF_UNIX:
            raise HandshakeError("it asks for a shortcut that is not to be had")
        driver.hand_over(transport, asked.unix_path)

    def bury(self, tunnel: bytes) -> Welcome:
        """End a driver for which nobody comes back; what is said of that."""
        self._buried.append(tunnel)
        driver = self._drivers.get(tunnel)
        if driver is not None:
            driver.end("its agent has ended")
        return Welcome(refused=_BURIED)

    def _gone(self, tunnel: bytes) -> None:
        self._drivers.pop(tunnel, None)
        self.last_use = asyncio.get_running_loop().time()

    def look_after(self) -> None:
        """Find out which drivers are there."""
        for driver in list(self._drivers.values()):
            driver.look_after()

    async def stop(self, reason: str) -> None:
        """All drivers have to go, and hear why, if they listen."""
        for caller in list(self._half_open):
            caller.end(reason)
        for driver in list(self._drivers.values()):
            driver.end(reason)
        await self.connected.all_gone()


class _Caller(asyncio.Protocol):
    """A connection from outside."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._transport: asyncio.Transport | None = None
        self._admitting: Admitting | None = None
        self._driver: RemoteDriver | None = None
        self._wire: TransportWire | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._peer = "a peer"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Speak first."""
        self._transport = cast(asyncio.Transport, transport)
        self._peer = str(transport.get_extra_info("peername") or "a local process")
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            tcp.set_up(sock)
        binding = binding_in(self._gateway.tls, transport)
        self._admitting = Admitting(self._gateway.token, binding)
        self._transport.write(self._admitting.hello)
        self._gateway.came(self)
        self._deadline = asyncio.get_running_loop().call_later(
            self._gateway.config.handshake_timeout_s, self.end, "no handshake in time"
        )

    def data_received(self, data: bytes) -> None:
        """The entrance, then the tunnel."""
        try:
            if self._admitting is not None:
                data = self._enter(data)
            if data and self._driver is not None:
                self._driver.carrier.received(data)
        except (HandshakeError, TunnelError) as error:
            if self._driver is not None:
                self._driver.end(f"it broke the protocol: {error}")
            self.end(str(error))

    def _enter(self, data: bytes) -> bytes:
        assert self._transport is not None and self._admitting is not None
        reply, visit, rest = self._admitting.feed(data)
        if reply:
            self._transport.write(reply)
        if visit is None:
            return b""
        self._settle()
        self._admitting = None
        if isinstance(visit, Shortcut):
            self._gateway.shorten(visit, self._transport)
            self._gateway.connected.went(self)  # from here on it is the other process's
            return b""
        if isinstance(visit, Farewell):
            self._transport.write(packed(self._gateway.bury(visit.tunnel)))
            self._transport.close()
            return b""
        knock = visit
        driver, welcome = self._gateway.admit(knock)
        self._transport.write(packed(welcome))
        if driver is None:
            self._transport.close()
            return b""
        self._driver = driver
        self._wire = TransportWire(self._transport)
        driver.take(self._wire, knock.received)
        return rest

    def _settle(self) -> None:
        self._gateway.settled(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def pause_writing(self) -> None:
        """The socket takes no more."""
        if self._driver is not None and self._driver.carrier.wire is self._wire:
            self._driver.carrier.pause()

    def resume_writing(self) -> None:
        """It does again."""
        if self._driver is not None and self._driver.carrier.wire is self._wire:
            self._driver.carrier.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has gone."""
        self._settle()
        self._gateway.connected.went(self)
        self._transport = None
        if self._driver is not None and self._driver.carrier.wire is self._wire:
            self._driver.lost()

    def end(self, reason: str) -> None:
        """Close the connection of one that is no driver."""
        _strangers.warning("Closed the connection of %s: %s.", self._peer, reason)
        self._settle()
        if self._transport is not None:
            self._transport.abort()


async def _main(args: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    config = Config.from_env()
    gateway = Gateway(Session(Path(args.session_dir)), config)
    for fd in args.listen_fd:
        sock = socket.socket(fileno=fd)
        options: dict[str, Any] = {}
        if sock.family != socket.AF_UNIX:  # which the dashboard has, that ends a browser's TLS
            options = accepting_with(gateway.tls, config.handshake_timeout_s)
        Accepting(sock, lambda: _Caller(gateway), **options)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    if args.parent_fd is not None:
        watch_parent(loop, args.parent_fd, stopped.set)
    report_ready(args.ready_fd, {"pid": os.getpid()})
    idle_s = config.client_gateway_idle_s
    while not stopped.is_set():
        try:
            await asyncio.wait_for(stopped.wait(), min(PING_S, max(0.05, idle_s / 2)))
        except TimeoutError:
            gateway.look_after()
            if gateway.is_idle and loop.time() - gateway.last_use > idle_s:
                break
    await gateway.stop("the head node has ended")


def main() -> None:
    """Serve remote drivers until SIGTERM, the end of the raylet, or until none is here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--listen-fd", type=int, action="append", required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    allow_many_files()
    give_large_blocks_back()
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
