"""One remote driver, as its gateway has it: what it reaches, and where it is reached.

The gateway stands in the driver's place on the head node. It dials for it, and proves the token on
its behalf; it listens for it, on a Unix socket and a port, and lets through whoever proves the
token; it holds the store's memory for it, into which it writes and out of which it reads.

The end of the driver is the end of all that at once, in this order: nothing is written into the
store any more, then the connections close, of which the raylet's tells the cluster that the driver
is dead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, cast

from nbray.client.carrier import Carrier, StreamEnd, Wire
from nbray.client.ends import SocketEnd
from nbray.client.handing_over import hand_over
from nbray.client.store_ends import ReadEnd, RefusedEnd, Store, WriteEnd
from nbray.client.tunnel import Tunnel
from nbray.common.addresses import split
from nbray.common.config import Config
from nbray.common.session import Session, SessionInfo
from nbray.common.sparing_log import SparingLog
from nbray.wire import tcp
from nbray.wire.accepting import Accepting
from nbray.wire.aio_tls import accepting_with, binding_in, connecting_with
from nbray.wire.handshake import ClientHandshake, HandshakeError, ServerHandshake
from nbray.wire.link import Answer, Opening
from nbray.wire.listener import MOST_HALF_OPEN
from nbray.wire.tcp import listen
from nbray.wire.tls import Tls
from nbray.wire.tunnel_messages import Accepted, Browse, Dial, Read, Write, packed, purpose_of

logger = logging.getLogger(__name__)
_strangers = SparingLog(logger)

_ACCEPTED = packed(Accepted())[4:]


class RemoteDriver:
    """See the head of this module.

    Attributes:
        carrier: its tunnel.
        unix_path: where processes of this node reach it.
        host: where others do.
        port: its port there.
        grace_s: how long it may be away.
        info: what the session folder tells of the cluster.
    """

    def __init__(
        self, session: Session, info: SessionInfo, token: bytes, config: Config, worker_id: bytes,
        grace_s: float, on_end: Callable[[], None],
    ) -> None:  # fmt: skip
        self.grace_s = grace_s
        self.token = token
        self.tls = Tls.of(session.path)
        self.config = config
        self.name = worker_id.hex()[:12]
        self.carrier = Carrier(Tunnel(dials=False), self._opened, self._left)
        self._store = Store(worker_id)
        self.info = info
        self._on_end = on_end
        self._ended = False
        self._grace: asyncio.TimerHandle | None = None
        self._half_open: OrderedDict[_AcceptedEnd, None] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handed: set[asyncio.Task[None]] = set()
        self._servers: list[Accepting] = []
        self.unix_path = session.socket_path(f"d-{self.name}")
        with ExitStack() as made:  # of which nothing stays if there is no free port
            unix = made.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            unix.bind(self.unix_path)
            made.callback(os.unlink, self.unix_path)
            unix.listen(512)
            other = listen(info["node_ip"], config.min_worker_port, config.max_worker_port)
            made.pop_all()
        self.host, self.port = info["node_ip"], other.getsockname()[1]
        for sock in (unix, other):
            self._listen(sock)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _listen(self, sock: socket.socket) -> None:
        options: dict[str, Any] = {}
        if sock.family != socket.AF_UNIX:
            options = accepting_with(self.tls, self.config.handshake_timeout_s)
        self._servers.append(Accepting(sock, lambda: _AcceptedEnd(self), **options))

    # --- how it is --------------------

    def take(self, wire: Wire, received: int) -> None:
        """It is there, over that wire.

        Raises:
            TunnelError: it cannot have received so much.
        """
        self._stop_waiting()
        self.carrier.take(wire, received)

    def lost(self) -> None:
        """Its connection has gone: it has time to come back."""
        self.carrier.lose()
        if self._grace is None and not self._ended:
            logger.info("The driver %s is out of reach.", self.name)
            self._grace = self._loop.call_later(
                self.grace_s, self.end, f"it was out of reach for {self.grace_s:.0f} s"
            )

    def look_after(self) -> None:
        """See whether it gives signs of life."""
        if self.carrier.wire is not None and not self.carrier.look_after():
            self.lost()

    def _stop_waiting(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _left(self, reason: str) -> None:
        """It has ended the tunnel itself, and waits until it knows that this was heard."""
        self.carrier.tunnel.acknowledge(at_once=True)
        self.end(reason)

    def end(self, reason: str) -> None:
        """It is dead for the cluster."""
        if self._ended:
            return
        self._ended = True
        logger.info("The driver %s has gone: %s.", self.name, reason)
        self._stop_waiting()
        for server in self._servers:
            server.close()
        self._store.close()
        for handed in list(self._handed):
            handed.cancel()
        self.carrier.part(reason)
        for half_open in list(self._half_open):
            half_open.fail(reason)
        try:
            os.unlink(self.unix_path)
        except FileNotFoundError:
            logger.debug("The socket %s was gone already.", self.unix_path)
        self._on_end()

    # --- streams that it opens --------------------

    def _opened(self, number: int, header: bytes) -> StreamEnd:
        if self._ended:
            return self._refused(number, "the driver has gone")
        try:
            purpose = purpose_of(header)
        except ValueError as error:
            return self._refused(number, str(error))
        match purpose:
            case Dial():
                dialled = _DialledEnd(self, number)
                self._start(self._dial(dialled, purpose.unix_path, purpose.host, purpose.port))
                return dialled
            case Browse():
                end = SocketEnd(self.carrier, number)
                place = self.info["dashboard"].removeprefix("https://")
                host, port = split(place) if place else ("", 0)
                self._start(self._dial(end, "", host, port))
                return end
            case Write():
                return WriteEnd(self.carrier, number, self._store, purpose)
            case Read():
                return ReadEnd(self.carrier, number, self._store, purpose)
        return self._refused(number, "not for the gateway")

    def _refused(self, number: int, reason: str) -> StreamEnd:
        self._loop.call_soon(self.carrier.close, number, reason)
        return RefusedEnd()

    async def _dial(self, end: SocketEnd, unix_path: str, host: str, port: int) -> None:
        try:
            async with asyncio.timeout(self.config.handshake_timeout_s):
                if unix_path:
                    await self._loop.create_unix_connection(lambda: end, unix_path)
                elif host:
                    # To a dashboard, browsers speak TLS themselves.
                    tls = self.tls if isinstance(end, _ProvingEnd) else None
                    limit_s = self.config.handshake_timeout_s
                    await self._loop.create_connection(
                        lambda: end, host, port, **connecting_with(tls, limit_s)
                    )
                else:
                    raise OSError("there is nothing to connect to")
        except (OSError, TimeoutError) as error:
            end.fail(str(error) or "no answer in time")

    def hand_over(self, transport: asyncio.Transport, unix_path: str) -> None:
        """Hand a connection of it to a process of this node, until the one or the other ends."""
        work = hand_over(
            transport, unix_path, self.token, self.grace_s, self.config.handshake_timeout_s
        )
        task = self._loop.create_task(work)
        self._handed.add(task)
        task.add_done_callback(self._handed.discard)

    # --- who comes for it --------------------

    def came(self, end: _AcceptedEnd) -> None:
        """Somebody has connected; with too many that have proved nothing the oldest goes."""
        if len(self._half_open) >= MOST_HALF_OPEN:
            oldest, _ = self._half_open.popitem(last=False)
            oldest.fail("too many have no handshake yet")
        self._half_open[end] = None

    def settled(self, end: _AcceptedEnd) -> None:
        """That one has proved itself, or has gone."""
        self._half_open.pop(end, None)


class _ProvingEnd(SocketEnd):
    """A socket to a process of the cluster: first both prove the token, then bytes pass."""

    def __init__(self, driver: RemoteDriver, number: int = 0) -> None:
        super().__init__(driver.carrier, number)
        self._driver = driver
        self._handshake: ClientHandshake | ServerHandshake | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._peer = "a peer"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            tcp.set_up(sock)
        self._deadline = asyncio.get_running_loop().call_later(
            self._driver.config.handshake_timeout_s, self.fail, "no handshake in time"
        )
        self._peer = str(transport.get_extra_info("peername") or "a local process")
        super().connection_made(transport)

    def ready(self) -> None:
        """Nothing goes into the socket before the proofs."""

    def data_received(self, data: bytes) -> None:
        """The handshake, then bytes of the stream."""
        if self._handshake is None:
            self.passed(data)
            return
        assert self._transport is not None
        try:
            reply, rest = self._handshake.feed(data)
        except HandshakeError as error:
            _strangers.warning("Closed the connection of %s: %s.", self._peer, error)
            self.fail(str(error))
            return
        if reply:
            self._transport.write(reply)
        if rest is None:
            return
        self._handshake = None
        self._settle()
        self.proved()
        super().ready()
        if rest:
            self.passed(rest)

    def passed(self, data: bytes) -> None:
        """Bytes of the process, after the proofs."""
        super().data_received(data)

    def proved(self) -> None:
        """Both have proved the token."""

    def arrived(self, data: memoryview) -> None:
        """Bytes for the socket, which wait for the proofs."""
        if self._handshake is not None or self._transport is None:
            self._early.append(data)
        else:
            super().arrived(data)

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has gone."""
        self._settle()
        super().connection_lost(error)


class _DialledEnd(_ProvingEnd):
    """A process to which the driver connects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The other side speaks first."""
        place = transport.get_extra_info("peername")
        self._handshake = ClientHandshake(
            self._driver.token, lambda: place, binding_in(self._driver.tls, transport)
        )
        super().connection_made(transport)


class _AcceptedEnd(_ProvingEnd):
    """A process that connects to the driver.

    It is answered here when its link is new, as the driver will answer: a driver may be away for
    longer than a process waits for one that does not say a word. Its own answer is dropped.
    """

    def __init__(self, driver: RemoteDriver) -> None:
        super().__init__(driver)
        self._opening: bytes | None = b""
        self._surplus = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Speak first."""
        place = transport.get_extra_info("sockname")
        self._handshake = ServerHandshake(
            self._driver.token, place, binding_in(self._driver.tls, transport)
        )
        super().connection_made(transport)
        cast(asyncio.Transport, transport).write(self._handshake.hello)
        self._driver.came(self)

    def proved(self) -> None:
        """The driver is told."""
        self._driver.settled(self)
        self.number = self.carrier.open(_ACCEPTED, self)

    def passed(self, data: bytes) -> None:
        """Bytes for the driver."""
        super().passed(data)
        if self._opening is None or self._transport is None:
            return
        self._opening += data
        if len(self._opening) >= Opening.SIZE:
            opening = Opening.unpack(self._opening[: Opening.SIZE])
            self._opening = None
            if not opening.known:
                self._surplus = Answer.SIZE
                self._transport.write(Answer(True).pack())

    def arrived(self, data: memoryview) -> None:
        """Bytes of the driver, but for its answer."""
        if self._surplus:
            dropped = min(self._surplus, len(data))
            self._surplus -= dropped
            self.carrier.consumed(self.number, dropped)
            data = data[dropped:]
        if len(data):
            super().arrived(data)

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has gone."""
        self._driver.settled(self)
        super().connection_lost(error)
