"""``python -m nbray.client.agent``: the process beside a remote driver that keeps its tunnel.

It is a process of its own, so that the tunnel lives while the program holds the interpreter's lock
or stands in a debugger. The core worker connects to its Unix socket and says first what for
(`nbray.wire.tunnel_messages.Purpose`); what the gateway accepts for the driver is connected to the
driver's own socket. It understands nothing of what passes by.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop

from nbray.client.agent_ends import BrowserEnd, LocalEnd, Writes
from nbray.client.carrier import PING_S, Carrier, TransportWire, TunnelError, Wire
from nbray.client.ends import SocketEnd
from nbray.client.entrance import Entering
from nbray.client.own_folder import AGENT_SOCKET, DRIVER_SOCKET, Note, hand_on, remove
from nbray.client.packages import own_packages
from nbray.client.tunnel import Tunnel
from nbray.common.addresses import split
from nbray.common.config import Config
from nbray.common.process import (
    allow_many_files,
    give_large_blocks_back,
    report_ready,
    watch_parent,
)
from nbray.common.session import Session
from nbray.wire import tcp
from nbray.wire.accepting import Accepting, accept_unix
from nbray.wire.aio_tls import binding_in, connecting_with, in_words
from nbray.wire.handshake import HandshakeError
from nbray.wire.tls import Tls
from nbray.wire.tunnel_messages import Farewell, Knock, Welcome

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0
_LAST_WORDS_S = 3.0


class _GatewayWire(asyncio.Protocol):
    """A connection to the gateway: a socket, or a WebSocket of the dashboard."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._entering: Entering | None = None
        self._wire: Wire | None = None
        self._early = b""
        self.welcome: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The gateway speaks first."""
        tcp.set_up(transport.get_extra_info("socket"))
        self._agent.reached(transport.get_extra_info("peername"))
        wire = TransportWire(cast(asyncio.Transport, transport))
        self.use(wire, self._agent.entering(transport))

    def use(self, wire: Wire, entering: Entering) -> None:
        """Write there, and come in so."""
        self._wire, self._entering = wire, entering
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        """The entrance, then the tunnel."""
        if self._wire is None:
            self._early += data
            return
        try:
            if self._entering is not None:
                reply, welcome, data = self._entering.feed(data)
                if reply:
                    self._wire.write([reply])
                if welcome is None or self.welcome.done():
                    return
                self._entering = None
                if not welcome.refused:
                    self._agent.carrier.take(self._wire, welcome.received)
                self.welcome.set_result(welcome)
            if data and self._carries:  # a WebSocket that was given up brings some for a while
                self._agent.carrier.received(data)
        except (HandshakeError, TunnelError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.welcome.done():
            self.welcome.set_exception(error)
        else:
            self._agent.give_up(f"the gateway broke the protocol: {error}")
        self.drop()

    def drop(self) -> None:
        """Nobody waits for it any more."""
        if self._wire is not None:
            self._wire.close()

    @property
    def _carries(self) -> bool:
        return self._wire is not None and self._agent.carrier.wire is self._wire

    def pause_writing(self) -> None:
        """The socket takes no more."""
        if self._carries:
            self._agent.carrier.pause()

    def resume_writing(self) -> None:
        """It does again."""
        if self._carries:
            self._agent.carrier.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has gone."""
        if not self.welcome.done():
            self.welcome.set_exception(
                in_words(error)
                if error
                else HandshakeError(
                    "the gateway closed the connection: is the token the same, and NBRAY_USE_TLS?"
                )
            )
        elif self._carries:
            self._agent.lost(str(error or "the connection was closed"))


class Agent:
    """The tunnel of one driver, kept as long as the gateway knows it."""

    def __init__(
        self, session: Session, note: Note, worker_id: bytes, status_fd: int,
        visit: Farewell | None = None,
    ) -> None:  # fmt: skip
        """``visit``: what is said to the gateway instead of the knock of a driver."""
        self._session = session
        self._address = note.address
        self._status_fd = status_fd
        self._grace_s = note.grace_s
        self._token = session.token
        self._tls = Tls.of(session.path)
        self._config = Config.from_env()
        self._knock = Knock(note.tunnel, False, 0, worker_id, note.grace_s, own_packages())
        self._visit = visit or self._knock
        self._entering: Entering | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._writes = Writes()
        self.gateway: tuple[str | int, ...] = ()
        self.carrier = Carrier(Tunnel(dials=True), self._accepted, self.give_up)
        self.over = asyncio.Event()

    # --- the wire --------------------

    def reached(self, gateway: tuple[str | int, ...]) -> None:
        """The gateway is at that address."""
        if self._tls is None:
            self.gateway = gateway

    def entering(self, transport: asyncio.BaseTransport) -> Entering:
        """How to come in over a new connection."""
        self._entering = Entering(self._token, self._visit, binding_in(self._tls, transport))
        return self._entering

    @property
    def may_be_known(self) -> bool:
        """Whether the gateway may have taken the driver in: it was told of it."""
        return self._entering is not None and self._entering.has_said

    async def connect(self) -> Welcome:
        """Connect to the gateway once.

        Raises:
            OSError: it is not to be reached, or does not let us in.
        """
        self._knock.received = self.carrier.tunnel.received
        async with asyncio.timeout(self._config.start_timeout_s):
            try:
                wire = await self._reach()
            except OSError as error:
                raise in_words(error) from error
            try:
                welcome = await wire.welcome
            except asyncio.CancelledError:
                wire.drop()
                raise
        if not welcome.refused:
            self._knock.known = True
            self._grace_s = welcome.grace_s
        return welcome

    async def _reach(self) -> _GatewayWire:
        if "://" in self._address:
            return await self._reach_by_web()
        host, port = split(self._address)
        _, wire = await asyncio.get_running_loop().create_connection(
            lambda: _GatewayWire(self), host, port,
            **connecting_with(self._tls, self._config.handshake_timeout_s),
        )  # fmt: skip
        return wire

    async def _reach_by_web(self) -> _GatewayWire:
        from nbray.client.trust import contexts
        from nbray.client.web_wire import connect  # tornado: by way of the dashboard only

        wire = _GatewayWire(self)
        # The dashboard ends its TLS, so that the proofs are not bound to it.
        trusted = contexts(self._session.path)
        carrier = await connect(self._address, wire, trusted)
        self._entering = Entering(self._token, self._visit)
        wire.use(carrier, self._entering)
        return wire

    def lost(self, reason: str, seconds_ago: float = 0.0) -> None:
        """The connection to the gateway has gone: make another."""
        self.carrier.lose()
        if self.over.is_set() or self._connecting is not None:
            return
        self._tell("lost", reason, seconds_ago)
        self._connecting = asyncio.create_task(self._connect_again())

    async def _connect_again(self) -> None:
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), _FIRST_PAUSE_S
        while not self.over.is_set():
            try:
                welcome = await self.connect()
            except (OSError, TimeoutError) as error:
                if loop.time() - began > self._grace_s:
                    self.give_up(f"the gateway was out of reach for {self._grace_s:.0f} s: {error}")
                    return
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE_S, 1.7 * pause)
                continue
            self._connecting = None
            if welcome.refused:
                self.give_up(welcome.refused)
            elif self.carrier.wire is None:  # it has gone again meanwhile
                self.lost("the connection was lost again")
            else:
                self._tell("connected", "")
            return

    async def look_after(self) -> None:
        """Find out for ever whether the gateway is there."""
        while True:
            await asyncio.sleep(PING_S)
            if self.carrier.wire is not None and not self.carrier.look_after():
                silent = asyncio.get_running_loop().time() - self.carrier.heard_at
                self.lost("the gateway gave no sign of life", silent)

    def give_up(self, reason: str) -> None:
        """The tunnel is over, and with it the driver's part in the cluster."""
        if not self.over.is_set():
            self._tell("gone", reason)
            self.over.set()
            self.carrier.end(reason)

    def _tell(self, state: str, reason: str, seconds_ago: float = 0.0) -> None:
        logger.info("%s: %s", state, reason)
        at = time.time() - seconds_ago
        line = json.dumps({"state": state, "reason": reason, "at": at})
        try:
            os.write(self._status_fd, line.encode() + b"\n")
        except OSError:
            logger.info("Nobody reads how the tunnel is.")

    async def leave(self) -> bool:
        """Say goodbye, after all that the driver has said; whether the gateway has heard it."""
        heard = True
        if not self.over.is_set():
            self.over.set()
            deadline = time.monotonic() + _LAST_WORDS_S
            while self.carrier.tunnel.streams and time.monotonic() < deadline - _LAST_WORDS_S / 2:
                await asyncio.sleep(0.01)  # the driver has closed its sockets, which shows soon
            self.carrier.goodbye("the driver has left")
            while (
                not self.carrier.tunnel.drained
                and self.carrier.wire is not None
                and time.monotonic() < deadline
            ):
                self.carrier.look_after()
                await asyncio.sleep(0.02)
            heard = self.carrier.tunnel.drained
            self.carrier.end("the driver has left")
        return heard

    # --- the driver's sockets --------------------

    def serve(self) -> int:
        """Listen for the driver, and for browsers of this machine; the port of these."""
        path = self._session.socket_path(AGENT_SOCKET)
        accept_unix(path, lambda: LocalEnd(self.carrier, self._writes))
        return Accepting(tcp.listen("127.0.0.1", 0, 0), lambda: BrowserEnd(self.carrier)).port

    def _accepted(self, number: int, _header: bytes) -> SocketEnd:
        end = SocketEnd(self.carrier, number)
        task = asyncio.ensure_future(self._connect_driver(end))
        task.add_done_callback(lambda done: done.exception())
        return end

    async def _connect_driver(self, end: SocketEnd) -> None:
        path = self._session.socket_path(DRIVER_SOCKET)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: end, path)
        except OSError as error:
            end.fail(f"the driver does not listen: {error}")


def _why_not(error: Exception, address: str) -> str:
    """What kept this side from a gateway, for people."""
    if isinstance(error, HandshakeError):
        return f"The cluster at {address} does not take this program in: {error}"
    if isinstance(error, TimeoutError):
        return f"No gateway answers at {address} in time: is it HOST:PORT of a head node?"
    return (
        f"No gateway can be reached at {address}: {error}. On the head node, `nbray status` names "
        "the port for remote drivers (nbray start --head --ray-client-server-port, 10001 by "
        "default); a firewall must let it through."
    )


def _is_told(ready_fd: int, report: dict[str, Any]) -> bool:
    """Report to the driver; False: it has ended meanwhile."""
    try:
        report_ready(ready_fd, report)
    except SystemExit:
        return False
    return True


async def _main(args: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    session = Session(Path(args.session_dir))
    note = Note.of(session)
    agent = Agent(session, note, bytes.fromhex(args.worker_id), args.status_fd)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    watch_parent(loop, args.parent_fd, stopped.set)
    left = loop.create_task(stopped.wait())
    connecting = loop.create_task(agent.connect())
    await asyncio.wait([connecting, left], return_when=asyncio.FIRST_COMPLETED)
    if not connecting.done():  # a gateway that takes it in at this moment has to hear of its end
        await asyncio.wait([connecting], timeout=_LAST_WORDS_S / 2)
        if connecting.cancel():
            _end(session, agent.may_be_known)
            return
    try:
        welcome = connecting.result()
        if welcome.refused:
            raise HandshakeError(welcome.refused)
    except (OSError, ValueError, TimeoutError) as error:
        _is_told(args.ready_fd, {"error": _why_not(error, note.address)})
        _end(session, agent.may_be_known and not isinstance(error, HandshakeError))
        return
    port = agent.serve()
    report: dict[str, Any] = msgspec.to_builtins(
        {name: getattr(welcome, name) for name in welcome.__struct_fields__ if name != "info"}
    )
    report |= {"gateway": agent.gateway, "info": json.loads(welcome.info), "dashboard_port": port}
    if not _is_told(args.ready_fd, report):
        stopped.set()  # the gateway has to hear of it
    looking = loop.create_task(agent.look_after())
    gone = loop.create_task(agent.over.wait())
    await asyncio.wait([gone, left], return_when=asyncio.FIRST_COMPLETED)
    looking.cancel()
    is_known = False
    if left.done():
        is_known = not await agent.leave()
    else:
        await left  # its sockets have closed; the driver says when it has seen why
    _end(session, is_known)
    os.close(args.status_fd)


def _end(session: Session, is_known: bool) -> None:
    """Leave nothing behind: not in the cluster, if the gateway may still know the driver."""
    if is_known:
        hand_on(session)
    else:
        remove(session)


def main() -> None:
    """Keep a tunnel until SIGTERM, or the end of the driver."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--worker-id", required=True)
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    allow_many_files()
    give_large_blocks_back()
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
