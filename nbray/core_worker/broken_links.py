"""Connections whose socket was lost: made anew, or ended when their peer has ended.

That a socket closes says nothing of the process behind it: a cable was cut, or it stood still for
seconds (a C call that holds the interpreter's lock, Ctrl-Z, a debugger, swap). So the side that
connected connects again, soon and then less often, and both ask their raylet whether the process
lives; its word, which is that of the process's own raylet or of the GCS, ends the connection. A
process that lives and cannot be reached for `peer_patience_s` is given up, and refused when it
comes back: whoever uses the connection has it fenced, or asks for its address again.

Only time that this process has seen counts: one that stood still itself blames nobody for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nbray.common.config import Config
from nbray.wire import messages as m
from nbray.wire.connection import Connection
from nbray.wire.reactor import Reactor
from nbray.wire.records import Address

_FIRST_DELAY_S = 0.01
_LONGEST_DELAY_S = 1.0

Ask = Callable[[m.AskProcess, Callable[[Any], None]], None]


@dataclass
class _Case:
    """One broken connection; ``seen`` are the seconds of it that this process has seen."""

    seen: float = 0.0
    looked: float = field(default_factory=time.monotonic)
    waits: bool = False
    asks: bool = False


class BrokenLinks:
    """The broken connections of one process. Its methods run under the baton.

    Attributes:
        ask: sends the raylet a question about a process, and passes on what it answers.
    """

    def __init__(self, reactor: Reactor, config: Config, ask: Ask) -> None:
        self._reactor = reactor
        self._config = config
        self._ask = ask
        self._cases: dict[Connection, _Case] = {}

    def broken(self, connection: Connection) -> None:
        """The socket of ``connection`` was lost, or none could be made."""
        if connection.attempts == 0:
            self._cases.pop(connection, None)
        case = self._cases.setdefault(connection, _Case())
        if case.waits:
            return
        first = connection.attempts == 0
        delay = 0.0
        if not first or not connection.dials:
            delay = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(connection.attempts, 10))
            self._ask_raylet(connection, case)
        if connection.closed:
            return
        now = time.monotonic()
        case.seen += min(now - case.looked, delay + self._config.handshake_timeout_s)
        case.looked = now
        if case.seen > max(self._config.peer_patience_s, connection.patience_s):
            self._cases.pop(connection, None)
            connection.close(
                f"its process lives, but could not be reached for {case.seen:.0f} s "
                f"(NBRAY_PEER_PATIENCE_S): {connection.reason}"
            )
            return
        connection.attempts += 1
        case.waits = True
        self._reactor.call_later(delay, lambda: self._again(connection, case))

    def _again(self, connection: Connection, case: _Case) -> None:
        case.waits = False
        if connection.closed or connection.connected:
            if self._cases.get(connection) is case:
                del self._cases[connection]
        elif connection.dials:
            connection.dial()
        else:
            self.broken(connection)

    def _ask_raylet(self, connection: Connection, case: _Case) -> None:
        if case.asks:
            return
        peer = connection.state
        if isinstance(peer, Address):
            worker_id, node_id = peer.worker_id, peer.node_id
        else:
            worker_id, node_id = connection.caller
        if not node_id:
            connection.close("it went before it was of any node")
            return
        case.asks = True

        def answered(reply: m.ProcessState | None) -> None:
            case.asks = False
            if reply is not None and not reply.alive and not connection.closed:
                self._cases.pop(connection, None)
                connection.peer_ended = True
                connection.close("its process has ended")

        self._ask(m.AskProcess(0, worker_id, node_id), answered)
