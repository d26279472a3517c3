"""Nodes of this machine, for tests and for trying an autoscaler out; Ray's ``fake_multinode``.

An instance is a folder below the head's session, named by its id: its type, what the command that
starts its node says, a link to the node's session (`nbray.launcher.record`). The command holds a
lock on it while it runs. So whoever looks there knows how far it is, also after a kill.

In a type's ``node_config``: ``object_store_memory``, in bytes; 100 MB by default.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nbray.autoscaler.providers.base import (
    Cluster,
    Instance,
    ProviderError,
    Stage,
    Wanted,
)
from nbray.common.process import environment
from nbray.launcher.found import node_of
from nbray.launcher.record import RECORD_VARIABLE, NodeRecord

_STORE_BYTES = 100 << 20
_LINES_BYTES = 8192


class FakeProvider:
    """See the head of this module."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._folder = Path(cluster.session) / "fake_nodes"

    async def create(self, wanted: Sequence[Wanted]) -> Mapping[str, str]:
        """Start nodes; none is refused."""
        for one in wanted:
            try:
                self._create(one)
            except OSError as error:
                raise ProviderError(f"No node can be started in {self._folder}: {error}") from error
        return {}

    def _create(self, one: Wanted) -> None:
        folder = self._folder / one.id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "type").write_text(one.type.name)
        store = int(one.type.node_config.get("object_store_memory", _STORE_BYTES))
        command = [
            sys.executable, "-P", "-c", "from nbray.cli import main; main()",
            *one.start_words(self._cluster.address), f"--object-store-memory={store}",
            *([] if "GPU" in one.type.resources else ["--num-gpus=0"]),  # the head has them
        ]  # fmt: skip
        variables = environment()
        variables.pop("NBRAY_AUTH_TOKEN", None)
        variables |= {
            "NBRAY_AUTH_TOKEN_PATH": self._cluster.token_file, RECORD_VARIABLE: str(folder),
        }  # fmt: skip
        with open(folder / "lock", "a+") as lock, open(folder / "log", "ab") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # it is being started
            if (folder / "session").is_symlink():
                return
            # The lock is the child's from here on, as long as it lives.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables,
                start_new_session=True, pass_fds=[lock.fileno()],
            )  # fmt: skip
            (folder / "pid").write_text(str(process.pid))

    async def list(self) -> Sequence[Instance]:
        """All folders, and what became of them."""
        _reap()
        return [self._seen(folder) for folder in self._folders()]

    def _folders(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from sorted(folder for folder in self._folder.iterdir() if folder.is_dir())

    def _seen(self, folder: Path) -> Instance:
        with suppress(FileNotFoundError):
            kind = (folder / "type").read_text()
            session = NodeRecord(folder).session
            if session is not None and node_of(session).processes:
                return Instance(
                    id=folder.name, type=kind, stage=Stage.RUNNING, place=str(session.path)
                )
            if _is_locked(folder):
                return Instance(id=folder.name, type=kind, stage=Stage.STARTING)
            why = "the command that starts it has not been run"
            if (folder / "pid").exists():
                why = "its processes have ended"
            return Instance(id=folder.name, type=kind, stage=Stage.ENDED, why=why)
        return Instance(id=folder.name, type="", stage=Stage.ENDED, why="it was never begun")

    async def terminate(self, ids: Sequence[str]) -> None:
        """End their processes and remove their folders."""
        await asyncio.gather(*(asyncio.to_thread(self._end, self._folder / one) for one in ids))

    def _end(self, folder: Path) -> None:
        if folder.parent != self._folder or not folder.is_dir():
            return
        if _is_locked(folder):
            with suppress(OSError, ValueError):
                os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)
        session = NodeRecord(folder).session
        if session is not None:
            node_of(session).stop(force=True)
        _reap()
        shutil.rmtree(folder, ignore_errors=True)

    async def logs(self, id: str) -> str:
        """What the command said, and the end of the raylet's log."""
        folder = self._folder / id
        said = _end_of(folder / "log")
        session = NodeRecord(folder).session
        if session is not None:
            said += _end_of(session.log_path("raylet.log"))
        return said[-_LINES_BYTES:]

    async def close(self) -> None:
        """The nodes stay."""


def _end_of(file: Path) -> str:
    try:
        return file.read_bytes()[-_LINES_BYTES:].decode(errors="replace")
    except OSError:
        return ""


def _is_locked(folder: Path) -> bool:
    """Whether the command that starts the node runs."""
    with _opened(folder / "lock") as descriptor:
        if descriptor is None:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def _opened(file: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _reap() -> None:
    """Commands that have ended are children of this process."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
