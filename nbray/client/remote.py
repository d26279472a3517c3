"""What stands in the program of a remote driver: its agent, and how the tunnel is."""

from __future__ import annotations

import json
import logging
import os
import select
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec

from nbray.client.memory import attach_over
from nbray.client.own_folder import AGENT_SOCKET, Note, hand_on, own_folder, remove
from nbray.client.road import Road
from nbray.client.shortcuts import Shortcuts
from nbray.common.addresses import joined, split
from nbray.common.config import Config
from nbray.common.process import Child, ProcessStartError, spawn
from nbray.common.session import Session, SessionInfo
from nbray.wire.connection import Home
from nbray.wire.reactor import Reactor
from nbray.wire.records import Address

logger = logging.getLogger(__name__)

_NOTEWORTHY_S = 5.0
CONNECTED, LOST, GONE = "connected", "lost", "gone"


@dataclass(frozen=True)
class TunnelState:
    """How the tunnel of this program is.

    Attributes:
        state: ``connected``, ``lost`` while it is made again, or ``gone`` for good.
        reason: why it is not connected.
        since: when that began, in seconds since the epoch.
        grace_s: how long it may be lost.
    """

    state: str = CONNECTED
    reason: str = ""
    since: float = 0.0
    grace_s: float = 0.0

    @property
    def text(self) -> str:
        """What to say of it; empty while all is well."""
        if self.state == LOST:
            away = max(0.0, time.time() - self.since)
            return f"reconnecting, {away:.0f} s of {self.grace_s:.0f}: {self.reason}"
        return f"lost: {self.reason}" if self.state == GONE else ""


class Remote:
    """The agent of this program, and what it found at the gateway.

    Attributes:
        session: a folder of this program, with what belongs to it of the head's session folder.
        info: what that tells of the cluster; the dashboard's address is one of this machine.
        outside: where the cluster reaches this program.
        road: the way to the cluster.
        attach: the way to its object store.
        tunnel: by which the gateway knows this program.
        cluster: the name of the head's session folder.
        dashboard_port: on which the dashboard listens in the cluster; 0: there is none.
        packages: those of the head node that are of another version than here.
    """

    def __init__(
        self, session: Session, note: Note, agent: Child, report: Mapping[str, Any],
        status_fd: int, worker_id: bytes,
    ) -> None:  # fmt: skip
        self.session = session
        self._folder = [session]
        self._agent = agent
        self._status_fd = status_fd
        self._said = b""
        self._tell: Callable[[str], None] = lambda text: None
        self._told_of = 0.0
        self.state = TunnelState(since=time.time(), grace_s=report["grace_s"])
        info = msgspec.convert(report["info"], SessionInfo)
        self.dashboard_port = int(info["dashboard"].rpartition(":")[2] or 0)
        if info["dashboard"]:
            info["dashboard"] = f"127.0.0.1:{report['dashboard_port']}"
        self.info = info
        session.write_info(info)
        self.cluster: str = report["cluster"]
        self.packages: dict[str, str] = report["packages"]
        self.outside = Address(worker_id, b"", report["unix_path"], report["host"], report["port"])
        self.road = Road(session.socket_path(AGENT_SOCKET), self.state.grace_s)
        self.attach = attach_over(self.road, self.why_gone)
        self.tunnel = note.tunnel
        self._gateway: list[str | int] = report["gateway"]
        self._give_up_shortcuts: Callable[[], None] = lambda: None

    @property
    def agent_pid(self) -> int:
        """The process of the agent."""
        return self._agent.pid

    def watch(self, home: Home, most_shortcuts: int, tell: Callable[[str], None]) -> None:
        """Hear of the tunnel from now on; ``tell`` shows a line to the user."""
        self._tell = tell
        reactor = home.reactor
        if most_shortcuts > 0 and self._gateway:
            shortcuts = Shortcuts(home, self.tunnel, self._gateway, most_shortcuts)
            self.road.on_opened = shortcuts.opened
            self._give_up_shortcuts = partial(reactor.post, shortcuts.give_up)
        reactor.watch(self._status_fd, lambda _events: self._hear(reactor), lambda: None)

    def _hear(self, reactor: Reactor | None = None) -> None:
        try:
            while True:
                data = os.read(self._status_fd, 65536)
                if not data:
                    if self.state.state != GONE:
                        self._mourn()
                    self._set(GONE, "the agent beside this program has ended", time.time())
                    if reactor is not None:
                        reactor.forget(self._status_fd)
                    return
                self._said += data
                *lines, self._said = self._said.split(b"\n")
                for line in lines:
                    told = json.loads(line)
                    self._set(told["state"], told["reason"], told["at"])
        except BlockingIOError:
            return

        finally:
            if reactor is not None and self.state.state == LOST:
                passed = time.time() - self.state.since
                reactor.call_later(max(0.0, _NOTEWORTHY_S - passed), self._tell_of_loss)

    def _mourn(self) -> None:
        """The agent has ended without a word: somebody else says goodbye to the gateway."""
        with suppress(IndexError):  # as another thread does at this moment, or has done
            hand_on(self._folder.pop())

    def _set(self, state: str, reason: str, since: float) -> None:
        before = self.state
        if before.state == GONE:
            return
        self.state = replace(before, state=state, reason=reason, since=since)
        if state != LOST:
            self._give_up_shortcuts()
        if state == CONNECTED and self._told_of:
            self._told_of = 0.0
            self._tell(f"nbray: connected again, after {since - before.since:.0f} s.")

    def _tell_of_loss(self) -> None:
        """A loss that lasts is said once; most are over before anybody notices."""
        state = self.state
        if state.state == LOST and self._told_of != state.since:
            if time.time() - state.since < 0.9 * _NOTEWORTHY_S:
                return  # of another loss, which has its own turn
            self._told_of = state.since
            self._tell(
                f"nbray: the connection to the cluster was lost ({state.reason}) and is being made "
                f"again. What runs there goes on; after {state.grace_s:.0f} s this driver is dead."
            )

    def why_gone(self, patience_s: float = 0.0) -> str:
        """Why there is no tunnel any more; empty while there is one, or may be again.

        When its sockets have closed, the word may come some milliseconds later: ``patience_s``.
        """
        if patience_s and self.state.state != GONE:
            poller = select.poll()
            poller.register(self._status_fd, select.POLLIN)
            poller.poll(patience_s * 1000)
        self._hear()
        return self.state.reason if self.state.state == GONE else ""

    def close(self) -> None:
        """Leave the gateway, after what the core worker has said."""
        self._agent.terminate()
        if self._agent.returncode:  # it was killed, and has not cleared up
            self._hear()
            for left in self._folder:
                remove(left)
        os.close(self._status_fd)


def place_of(address: str) -> str:
    """HOST:PORT of ``nbray://HOST:PORT`` or ``ray://HOST:PORT``; a URL of a dashboard as it is.

    Raises:
        ConnectionError: it is no such address.
    """
    scheme, _, place = address.partition("://")
    if scheme in ("http", "https") and urlsplit(address).hostname:
        return address
    if scheme not in ("nbray", "ray"):
        raise ConnectionError(
            f"{address!r} is no address of a cluster: nbray://HOST:PORT is one, with the port for "
            "remote drivers, 10001 by default, or the dashboard's URL, as https://HOST/PREFIX."
        )
    try:
        host, port = split(place if ":" in place.rpartition("]")[2] else f"{place}:10001")
        if place.startswith("[") != ("]" in place) or not port:
            raise ValueError("it names no host and port.")
    except ValueError as error:
        raise ConnectionError(f"{address!r} is no address of a cluster: {error}") from None
    return joined(host, port)


def connect(
    address: str, token: bytes, worker_id: bytes, config: Config,
    prepare: Callable[[Session], None],
) -> Remote:  # fmt: skip
    """Start the agent of this program, which connects to the gateway at ``address``.

    ``prepare`` puts into its folder what it shows there, if there is to be TLS.

    Raises:
        ConnectionError: there is no gateway, or it does not take this program in.
    """
    place = place_of(address)
    session, note = own_folder(token, place, config.client_reconnect_grace_period)
    status_read, status_write = os.pipe()
    os.set_blocking(status_read, False)
    agent = None
    try:
        prepare(session)
        agent = spawn(
            "nbray.client.agent",
            ["--session-dir", str(session.path), "--worker-id", worker_id.hex(),
             "--status-fd", str(status_write)],
            session.log_path("agent.log"), fate_shared=True, pass_fds=[status_write],
        )  # fmt: skip
        os.close(status_write)
        status_write = -1
        report = agent.wait_ready(2 * config.start_timeout_s)
        return Remote(session, note, agent, report, status_read, worker_id)
    except BaseException as error:
        if agent is None:
            remove(session)
        else:
            agent.terminate()
            if agent.returncode:  # it was killed, and the gateway may have taken it in
                hand_on(session)
        os.close(status_read)
        if status_write >= 0:
            os.close(status_write)
        if isinstance(error, ProcessStartError):
            raise ConnectionError(str(error)) from None
        raise
