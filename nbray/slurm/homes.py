"""What a cluster with nodes from Slurm keeps in the user's home, which all hosts share.

``~/.nbray/slurm/NAME`` has the token for its jobs, what they write, and who holds the cluster: the
machine and the session of its head. So a later start finds clusters whose head has gone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nbray.common.pids import machine

_LOGS_KEPT = 200
_LONGEST_START_S = 3600.0
_MARK = "nbray"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Holder:
    """The head of a cluster: the machine's name and identity, and its session folder."""

    host: str
    machine: str
    session: Path

    def runs_here(self, lives: Callable[[Path], bool]) -> bool:
        """Whether it runs on this machine.

        Args:
            lives: whether the node of a session folder runs.
        """
        return self.machine == machine() and lives(self.session)


class ClusterHome:
    """The folder of one cluster."""

    def __init__(self, name: str, root: Path | None = None) -> None:
        """Find the folder of the cluster ``name``; nothing is made.

        Raises:
            ValueError: no cluster can be called so.
        """
        if _NAME.fullmatch(name) is None:
            raise ValueError(
                f"cluster_name {name!r} names jobs and folders: give letters, digits, '-', '_' and "
                "'.', at most 100."
            )
        self.name = name
        self.path = (_root() if root is None else root) / name

    @property
    def token(self) -> Path:
        """The file with the token."""
        return self.path / "token"

    def hold(self, token: bytes, session: str) -> None:
        """Note whose the cluster is, and bring the token to where jobs find it.

        Raises:
            OSError: the home takes no file.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self._write("token", token)
        held = {"host": socket.gethostname(), "machine": machine(), "session": session}
        self._write("holder", json.dumps(held).encode())

    def logs(self, named: str | None) -> Path:
        """The folder for what jobs write; of old files the newest stay.

        Raises:
            OSError: it cannot be made.
        """
        folder = self.path / "logs" if named is None else Path(named).expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = sorted(folder.glob(f"{_MARK}-*.out"), key=_age, reverse=True)
        for old in files[_LOGS_KEPT:]:
            old.unlink(missing_ok=True)
        return folder

    @staticmethod
    def log_name(id: str) -> str:
        """The name of the file of one instance."""
        return f"{id}.out" if id.startswith(f"{_MARK}-") else f"{_MARK}-{id}.out"

    def forget(self) -> None:
        """The cluster is over."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def holder(self) -> Holder | None:
        """The head that has the cluster, or had it last; None if that is not known."""
        try:
            held = json.loads((self.path / "holder").read_text())
            return Holder(str(held["host"]), str(held["machine"]), Path(held["session"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_orphan(self, lives: Callable[[Path], bool]) -> bool:
        """Whether the head of the cluster ran on this machine, and does no more.

        Args:
            lives: whether the node of a session folder runs.
        """
        held = self.holder
        if held is None:  # it is being made, or was never held
            return 0 < _age(self.path) < time.time() - _LONGEST_START_S
        if held.host != socket.gethostname():
            return False
        boot, _, space = machine().partition("/")
        its_boot, _, its_space = held.machine.partition("/")
        if boot != its_boot:
            return True
        return space == its_space and not lives(held.session)

    def is_held_by(self, session: Path) -> bool:
        """Whether the head of the cluster has this session folder, on this machine."""
        held = self.holder
        return held is not None and held.machine == machine() and held.session == session

    def _write(self, name: str, data: bytes) -> None:
        new = self.path / f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(data)
        new.rename(self.path / name)


def cluster_homes(root: Path | None = None) -> Iterator[ClusterHome]:
    """The clusters that have a folder."""
    folder = _root() if root is None else root
    with suppress(FileNotFoundError):
        for entry in sorted(folder.iterdir()):
            if _NAME.fullmatch(entry.name):
                yield ClusterHome(entry.name, folder)


def job_name(cluster: str, type: str, id: str) -> str:
    """The name of the job that is an instance."""
    return f"{_MARK}:{cluster}:{type}:{id}"


def instance_of(name: str, cluster: str) -> tuple[str, str] | None:
    """Type and id of the instance that a job is, by its name; None of jobs of others."""
    mark = f"{_MARK}:{cluster}:"
    type, colon, id = name.removeprefix(mark).rpartition(":")
    return (type, id) if name.startswith(mark) and colon and id else None


def _root() -> Path:
    return Path.home() / ".nbray" / "slurm"


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
