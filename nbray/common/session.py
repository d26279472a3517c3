"""The session folder: a cluster's sockets, logs, token and addresses, private to the user."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def sessions_root() -> Path:
    """The folder of all sessions of this user, made private when it is new.

    Raises:
        PermissionError: the folder is somebody else's, or open to others.
    """
    root = Path(os.environ.get("NBRAY_TMPDIR") or f"/tmp/nbray-{os.getuid()}")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(
            f"{root} must be a folder of yours with mode 0700: "
            "remove it, or name another by NBRAY_TMPDIR."
        )
    return root


@dataclass(frozen=True)
class Session:
    """One cluster's folder on one machine."""

    path: Path

    @classmethod
    def create(cls, token: bytes | None = None) -> Session:
        """A new folder, with ``token`` or a random one in it."""
        name = f"s{time.strftime('%m%d%H%M%S')}-{secrets.token_hex(4)}"
        session = cls(sessions_root() / name)
        for folder in (session.path, session.path / "sockets", session.path / "logs"):
            folder.mkdir(mode=0o700)
        session._write("token", token or secrets.token_bytes(32))
        return session

    @property
    def token(self) -> bytes:
        """The cluster's secret."""
        return (self.path / "token").read_bytes()

    def socket_path(self, name: str) -> str:
        """Where the Unix socket ``name`` is."""
        return str(self.path / "sockets" / name)

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
        new = self.path / f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(data)
        new.rename(self.path / name)

    def write_secret(self, name: str, data: bytes) -> None:
        """Keep what only the processes of this folder may know."""
        self._write(name, data)

    def read_secret(self, name: str) -> bytes:
        """What `write_secret` kept.

        Raises:
            FileNotFoundError: it kept nothing of that name.
        """
        return (self.path / name).read_bytes()

    def write_info(self, info: dict[str, Any]) -> None:
        """Keep addresses and pids for those who look for the cluster."""
        self._write("session.json", json.dumps(info).encode())

    def read_info(self) -> dict[str, Any]:
        """What `write_info` kept."""
        info: dict[str, Any] = json.loads((self.path / "session.json").read_bytes())
        return info

    def replace_pid(self, old: int, new: int) -> None:
        """A process of the node was started again."""
        info = self.read_info()
        info["pids"] = [new if pid == old else pid for pid in info["pids"]]
        self.write_info(info)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def known_sessions() -> Iterator[tuple[Session, dict[str, Any]]]:
    """The sessions of this user that have started, each with its info, the newest first."""
    for path in sorted(sessions_root().iterdir(), reverse=True):
        session = Session(Path(path))
        try:
            yield session, session.read_info()
        except (FileNotFoundError, NotADirectoryError):
            continue  # it is starting or leaving
