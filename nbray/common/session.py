"""The session folder: a cluster's sockets, logs, token and addresses, private to the user."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import msgspec

from nbray.common.pids import machine, start_time
from nbray.common.session_roots import known_roots, sessions_root

logger = logging.getLogger(__name__)

CLIENT_SOCKET = "client"
"""The socket by which the dashboard reaches the gateway of remote drivers."""

GCS = "gcs"
"""Whose socket for calls is that of the GCS: see `Session.calls_path`."""

_skipped: set[Path] = set()


class SessionInfo(TypedDict):
    """What a session folder tells of its node: addresses, and the processes.

    ``pids`` are those of the GCS (of a head node), the raylet and the dashboard once somebody has
    looked, in the order of their start, and ``start_ticks`` says when each began (see
    `pids.start_time`), since a pid alone may be anybody's later. ``for_programs``: `init` without
    an address joins it. ``client_server`` is where remote drivers come, as "host:port".
    """

    gcs_address: str
    node_ip: str
    raylet_socket: str
    node_id: str
    pids: list[int]
    start_ticks: list[int]
    dashboard: str
    dashboard_error: str
    fate_shared: bool
    for_programs: bool
    client_server: NotRequired[str]


@dataclass(frozen=True)
class Session:
    """One cluster's folder on one machine."""

    path: Path

    @classmethod
    def create(cls, token: bytes | None = None) -> Session:
        """A new folder, with ``token`` or a random one in it.

        Raises:
            OSError: it cannot be made, and nothing of it is left.
        """
        name = f"s{time.strftime('%m%d%H%M%S')}-{secrets.token_hex(4)}"
        session = cls(sessions_root() / name)
        try:
            for folder in (session.path, session.path / "sockets", session.path / "logs"):
                folder.mkdir(mode=0o700)
            session.keep_starter()
            # Text, without what is cut from the ends of a file or cannot be in a variable.
            session.keep_token(token or secrets.token_hex(32).encode())
        except OSError as error:
            session.remove()
            raise OSError(
                f"No session folder can be made in {session.path.parent}: {error.strerror}. "
                "Make room there, or name another folder by NBRAY_TMPDIR."
            ) from error
        return session

    def keep_starter(self) -> None:
        """This process has made the folder: see `has_no_starter`."""
        own = os.getpid()
        self._write("starter", f"{machine()} {own} {start_time(own)}".encode())

    @property
    def starter(self) -> int:
        """The pid of the process that made the folder; 0 if that was not on this machine."""
        found = self._starter()
        return 0 if found is None else found[0]

    def has_no_starter(self) -> bool:
        """Whether the process that made the folder has ended, as far as can be seen from here."""
        found = self._starter()
        return found is not None and start_time(found[0]) != found[1]

    def _starter(self) -> tuple[int, int] | None:
        """Pid and start time of the process that made the folder, if that was on this machine."""
        try:
            where, pid, began = (self.path / "starter").read_text().split()
            return (int(pid), int(began)) if where == machine() else None
        except (FileNotFoundError, ValueError):  # it is being made, or is no session's
            return None

    @property
    def token(self) -> bytes:
        """The cluster's secret."""
        return (self.path / "token").read_bytes()

    def keep_token(self, token: bytes) -> None:
        """Make ``token`` the cluster's secret, for processes that start from now on."""
        self._write("token", token)

    def socket_path(self, name: str) -> str:
        """Where the Unix socket ``name`` is."""
        return f"{self.path}/sockets/{name}"

    def calls_path(self, name: str) -> str:
        """The Unix socket for calls of the GCS, `GCS`, or of the raylet of that node."""
        return self.socket_path(f"calls-{name[:8]}")

    def log_path(self, name: str) -> Path:
        """Where the log ``name`` is."""
        return self.path / "logs" / name

    @property
    def storage(self) -> str:
        """Where the GCS keeps its tables: what `keep_storage` wrote, or "sqlite"."""
        try:
            return (self.path / "storage").read_text()
        except FileNotFoundError:
            return "sqlite"

    def keep_storage(self, url: str) -> None:
        """Choose the storage; it may hold a password, so that it is on no command line."""
        self._write("storage", url.encode())

    def _write(self, name: str, data: bytes) -> None:
        """Write a file in one step: who reads it sees the old one or the new one."""
        file_path = self.path / name
        new = file_path.with_name(f".{file_path.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
                file.write(data)
            new.rename(file_path)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def write_secret(self, name: str, data: bytes) -> None:
        """Keep what only the processes of this folder may know."""
        self._write(name, data)

    def read_secret(self, name: str) -> bytes:
        """What `write_secret` kept.

        Raises:
            FileNotFoundError: it kept nothing of that name.
        """
        return (self.path / name).read_bytes()

    def write_info(self, info: SessionInfo) -> None:
        """Keep addresses and pids for those who look for the cluster."""
        self._write("session.json", json.dumps(info).encode())

    def read_info(self) -> SessionInfo:
        """What `write_info` kept.

        Raises:
            FileNotFoundError: the cluster is starting, or has gone.
            ValueError: it is no such file, or one of another version.
        """
        data = (self.path / "session.json").read_bytes()
        try:
            info = msgspec.convert(json.loads(data), SessionInfo)
        except (ValueError, RecursionError) as error:  # the errors of both are such
            raise ValueError(f"session.json is damaged or of another version: {error}") from error
        if len(info["pids"]) != len(info["start_ticks"]):
            raise ValueError("session.json is damaged: not every process has a start")
        return info

    def note_pid(self, old: int | None, new: int) -> None:
        """A process of the node was started, or started again.

        Raises:
            FileNotFoundError, ValueError: the folder does not tell of the node, or of ``old``.
        """
        info = self.read_info()
        if old is None:
            info["pids"].append(new)
            info["start_ticks"].append(start_time(new))
        else:
            place = info["pids"].index(old)
            info["pids"][place], info["start_ticks"][place] = new, start_time(new)
        self.write_info(info)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def unfinished_sessions(older_s: float) -> Iterator[Session]:
    """The folders of starts that were killed, or were made so long ago and not heard of again."""
    return (session for session, is_overdue in _unfinished(older_s) if is_overdue)


def starting_sessions(older_s: float) -> Iterator[Session]:
    """The folders of nodes that are being started at this moment."""
    return (session for session, is_overdue in _unfinished(older_s) if not is_overdue)


def _unfinished(older_s: float) -> Iterator[tuple[Session, bool]]:
    for root in known_roots():
        for path in root.iterdir():
            try:
                began = (path / "token").stat().st_mtime
            except OSError:
                continue  # no session folder, or one that goes at this moment
            session = Session(path)
            is_overdue = session.has_no_starter() or time.time() - began > older_s
            if not (path / "session.json").exists():
                yield session, is_overdue


def known_sessions() -> Iterator[tuple[Session, SessionInfo]]:
    """The sessions of this user that have started, each with its info, the newest first.

    A folder that cannot be read stops nothing; it is named once.
    """
    paths = [path for root in known_roots() for path in root.iterdir()]
    for path in sorted(paths, key=lambda path: path.name, reverse=True):
        session = Session(path)
        try:
            info = session.read_info()
        except (FileNotFoundError, NotADirectoryError):
            continue  # it is starting or leaving
        except (OSError, ValueError) as error:
            if path not in _skipped:
                _skipped.add(path)
                logger.warning(
                    "The session folder %s is left out: %s. Delete it if no cluster uses it.",
                    path, error,
                )  # fmt: skip
        else:
            yield session, info
