"""The processes that this one talks to: connections, and requests that wait for a reply.

Connections to drivers and workers are made when they are needed and never waited for: what is
sent meanwhile leaves when the handshake is done. A connection ends when the process behind it has
ended, not when a socket does (`broken_links`). Whoever waits for a reply over a connection hears
of its end, too.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from nbray.common.config import Config
from nbray.core_worker.broken_links import BrokenLinks
from nbray.core_worker.identity import Identity
from nbray.exceptions import GetTimeoutError, LocalRayletDiedError, NbrayError
from nbray.wire import group_messages as gm
from nbray.wire import messages as m
from nbray.wire import object_messages as om
from nbray.wire import watching_messages as wm
from nbray.wire.connection import Connection
from nbray.wire.connections import Connections
from nbray.wire.frames import UnsendableError
from nbray.wire.lease_messages import AskIdle, Assigned
from nbray.wire.records import Address
from nbray.wire.tcp import BACKLOG, listen
from nbray.wire.waiting import Waiter

logger = logging.getLogger(__name__)

_OF_RAYLETS: frozenset[type[m.Message]] = frozenset((
    m.WorkerRegistered, m.DriverRegistered, m.LeaseGranted, m.LeaseSpilled, m.LeaseRefused,
    m.WorkerDied, m.ReclaimLeases, om.ObjectCreated, om.ObjectPinned, om.BufferLent,
    om.ReclaimBuffer, om.CopiesChanged, m.ActorState, m.ActorRegistered, m.BecomeActor,
    m.ExitWorker, m.GcsReply, m.NodeDied, wm.SchedulingWarning, wm.TellTasks, wm.TellStacks,
    om.TellObjects,
    gm.GroupState,
    Assigned, AskIdle, m.ProcessState,
))  # fmt: skip
_ANSWER_S = 30.0
Handler = Callable[[Connection, Any], None]


class Ends(Protocol):
    """The edge (`edge.Edge`): it is notified of what ends, in this order for one connection.

    What it was to send before goes first.
    """

    def carry_out(self) -> None:
        """Send what was decided before, so that a request does not overtake it."""

    def raylet_gone(self, node_id: bytes) -> None:
        """The raylet of a node has ended; of an unknown one, that of this node."""

    def process_gone(self, worker_id: bytes, connection: Connection) -> None:
        """A driver or worker has ended, or is given up: there is no connection to it any more."""

    def connection_closed(self, connection: Connection) -> None:
        """Any connection has ended."""

    def node_died(self, node_id: bytes) -> None:
        """A node has ended, and the connections to it."""


class Peers:
    """All connections of one process. Except `request`, its methods run under the baton.

    Attributes:
        handlers: who takes the messages of a type.
        ends: is notified of the ends of connections and nodes.
        gcs_patience_s: by then the raylet has answered what it has to ask the GCS.
        socket_path: where this process listens for others of its machine.
    """

    def __init__(
        self, connections: Connections, config: Config, me: Identity, socket_path: str
    ) -> None:
        self.connections = connections
        self.reactor = connections.reactor
        self._me = me
        self.handlers: dict[type[m.Message], Handler] = {}
        self.ends: Ends
        self.raylet: Connection
        self.socket_path = socket_path
        # The raylet waits so long for the GCS, and then says that it did not come back.
        self._away_s = connections.ways.patience_s
        self.gcs_patience_s = config.gcs_rpc_server_reconnect_timeout_s + 10.0 + self._away_s
        self._peers: dict[bytes, Connection] = {}
        self._raylets: dict[bytes, Connection] = {}
        self._requests = itertools.count(1)
        self._replies: dict[object, tuple[Connection, Callable[[Any], None]]] = {}
        self._ports = config.min_worker_port, config.max_worker_port
        self._broken = BrokenLinks(self.reactor, config, self._ask_for_process)
        connections.identity = lambda: (me.worker_id, me.address.node_id)
        self.handlers[m.NodeDied] = self._on_node_died
        self.handlers[m.ProcessState] = lambda _raylet, reply: self.replied(
            ("process", reply.request_id), reply
        )

    def start(self, raylet_socket: str, host: str, outside: Address | None = None) -> None:
        """Listen on ``host`` and a Unix socket, and connect to the raylet of this node.

        With ``outside``, somebody listens there for this process, and connects to its Unix socket.

        Raises:
            OSError: the raylet is not there, or the token is wrong.
        """
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.bind(self.socket_path)
        unix.listen(BACKLOG)
        listening = [unix]
        if outside is None:
            tcp = listen(host, *self._ports)
            listening.append(tcp)
            outside = Address(self._me.worker_id, b"", self.socket_path, host, tcp.getsockname()[1])
        self._me.address = outside
        self.raylet = self.connections.connect_now(raylet_socket, self._on_message, self._closed)
        for sock in listening:
            self.connections.listen(sock, self._on_peer_message, self._closed, self._broken.broken)

    def joined(self, node_id: bytes) -> None:
        """The raylet of that node took this process in."""
        a = self._me.address
        self._me.address = Address(a.worker_id, node_id, a.unix_path, a.host, a.port)
        self.raylet.state = Address(b"", node_id, "", "", 0)
        self._raylets[node_id] = self.raylet

    @property
    def address(self) -> Address:
        """Where this process listens."""
        return self._me.address

    def stop(self, close: bool = True) -> None:
        """Close all connections, or leave that to the end of this process, which follows."""
        self.reactor.stop(close)
        try:
            os.unlink(self.socket_path)
        except FileNotFoundError:
            logger.debug("The socket %s was gone already.", self.socket_path)

    # --- connections --------------------

    def connect(self, address: Address) -> Connection:
        """The connection to a driver or worker, made when there is none."""
        connection = self._peers.get(address.worker_id)
        if connection is None or connection.closed:
            local = address.node_id == self._me.address.node_id
            connection = self.connections.connect(
                address.unix_path if local else "", address.host, address.port,
                self._on_message, self._closed, self._broken.broken,
            )  # fmt: skip
            connection.state = address
            connection.send(m.Hello(self._me.address, self._me.job))
            self._peers[address.worker_id] = connection
        return connection

    def introduced(self, connection: Connection, address: Address) -> None:
        """A process that connected to this one said who it is."""
        connection.state = address
        self._peers.setdefault(address.worker_id, connection)

    def find(self, worker_id: bytes) -> Connection | None:
        """The connection to a process, if there is one."""
        return self._peers.get(worker_id)

    def raylet_of(self, node_id: bytes) -> Connection | None:
        """The connection to a node's raylet, if there is one."""
        return self._raylets.get(node_id)

    def raylet_at(self, node_id: bytes, host: str, port: int) -> Connection:
        """The connection to a node's raylet, made when there is none."""
        connection = self._raylets.get(node_id)
        if connection is None or connection.closed:
            connection = self.connections.connect(
                "", host, port, self._on_message, self._closed, self._broken.broken
            )
            connection.state = Address(b"", node_id, "", host, port)
            self._raylets[node_id] = connection
        return connection

    def _on_peer_message(self, connection: Connection, message: m.Message) -> None:
        """A process that connected to this one sends something; raylets never connect."""
        kind = type(message)
        handler = self.handlers.get(kind)
        if handler is None:
            self._on_message(connection, message)
        elif kind in _OF_RAYLETS:
            logger.warning("A process sent a %s, as only raylets do.", kind.__name__)
            connection.close("it is no raylet")
        else:
            handler(connection, message)

    def _on_message(self, connection: Connection, message: m.Message) -> None:
        handler = self.handlers.get(type(message))
        if handler is None:
            logger.warning("An unexpected %s arrived.", type(message).__name__)
        else:
            handler(connection, message)

    def _closed(self, connection: Connection) -> None:
        peer = connection.state
        is_last = isinstance(peer, Address) and self._peers.get(peer.worker_id) is connection
        if is_last:
            del self._peers[peer.worker_id]
        orphans = [key for key, (over, _) in self._replies.items() if over is connection]
        for key in orphans:
            try:
                self._replies.pop(key)[1](None)
            except Exception:  # the others wait, too, and all who are told of ends below
                logger.exception("The end of a peer was not heard by who had asked it.")
        if isinstance(peer, Address) and not peer.worker_id:
            self.ends.raylet_gone(peer.node_id)
        elif is_last:
            self.ends.process_gone(peer.worker_id, connection)
        self.ends.connection_closed(connection)

    def _on_node_died(self, _raylet: Connection, message: m.NodeDied) -> None:
        """A machine that lost its network closes nothing: its connections end here."""
        gone = [
            connection
            for connection in self._peers.values()
            if isinstance(connection.state, Address) and connection.state.node_id == message.node_id
        ]
        raylet = self._raylets.pop(message.node_id, None)
        for connection in [*gone, raylet] if raylet is not None else gone:
            connection.peer_ended = True
            connection.close("its node is dead")
        self.ends.node_died(message.node_id)

    # --- requests --------------------

    def next_request(self) -> int:
        """A number for a request."""
        return next(self._requests)

    def to_raylet(self, message: m.Message) -> bool:
        """Send it to the raylet of this node; False when that has ended.

        Raises:
            UnsendableError: the message cannot travel.
        """
        raylet = self.raylet
        raylet.send(message)
        return not raylet.closed

    def send(self, address: Address, message: m.Message) -> None:
        """Send it to a driver or worker, over a new connection if there is none."""
        self.connect(address).send(message)

    def answer(self, worker_id: bytes, message: m.Message) -> None:
        """Send it over the connection that there is; nothing if the process has gone."""
        connection = self._peers.get(worker_id)
        if connection is not None:
            connection.send(message)

    def ask(self, address: Address, question: Any, then: Callable[[Any], None]) -> None:
        """Number and send a question; ``then`` gets the reply, or None if the process ends."""
        question.request_id = self.next_request()
        self._ask(self.connect(address), question.request_id, question, then)

    def _ask(
        self, connection: Connection, key: object, message: m.Message, then: Callable[[Any], None]
    ) -> None:
        """Send ``message``; ``then`` gets the reply for ``key``, or None if the peer ends first.

        Raises:
            UnsendableError: the message cannot travel.
        """
        if connection.closed:
            then(None)
            return
        connection.send(message)
        self._replies[key] = (connection, then)

    def _ask_for_process(self, question: m.AskProcess, then: Callable[[Any], None]) -> None:
        question.request_id = self.next_request()
        self._ask(self.raylet, ("process", question.request_id), question, then)

    def replied(self, key: object, reply: m.Message) -> None:
        """The reply for ``key`` came; nothing happens when nobody waits for it."""
        waiting = self._replies.pop(key, None)
        if waiting is not None:
            waiting[1](reply)

    def _forget(self, key: object) -> None:
        """Nobody waits for that reply any more."""
        self._replies.pop(key, None)

    def request(self, key: object, message: m.Message, timeout: float | None = None) -> Any:
        """Send ``message`` to the raylet and wait for the reply for ``key``; from any thread.

        Raises:
            GetTimeoutError: no reply in ``timeout`` seconds.
            LocalRayletDiedError: the raylet ended.
            UnsendableError: the message cannot travel.
        """
        waiter = Waiter()
        answer: list[Any] = []

        def on_reply(reply: Any) -> None:
            answer.append(reply)
            waiter.complete_one()

        def ask() -> None:
            self.ends.carry_out()
            try:
                self._ask(self.raylet, key, message, on_reply)
            except UnsendableError as error:
                on_reply(error)

        self.reactor.post(ask)
        if timeout is None:
            timeout = _ANSWER_S + self._away_s
        try:
            answered = self.reactor.wait(waiter, timeout)
        except BaseException:
            self.reactor.post(lambda: self._forget(key))
            raise
        if not answered:
            self.reactor.post(lambda: self._forget(key))
            raise GetTimeoutError(
                f"The raylet did not answer {type(message).__name__} within {timeout:.0f} s."
            )
        if answer[0] is None:
            raise LocalRayletDiedError(
                "The raylet of this node has died. Its log, raylet.log, says why; "
                "connect anew with nbray.shutdown() and nbray.init()."
            )
        if isinstance(answer[0], UnsendableError):
            raise answer[0]
        return answer[0]

    def gcs_call(self, method: str, body: bytes, timeout: float | None = None) -> bytes:
        """Call a method of the GCS through the raylet; from any thread.

        Raises:
            NbrayError: the GCS answered with an error.
            GetTimeoutError: the raylet did not answer in ``timeout`` seconds.
        """
        request_id = self.next_request()
        reply: m.GcsReply = self.request(
            ("gcs", request_id),
            m.GcsRequest(request_id, method, body),
            self.gcs_patience_s if timeout is None else timeout,
        )
        if reply.error:
            raise NbrayError(f"The GCS could not do {method}: {reply.error}")
        return reply.body
