"""The folder of a cluster on the launching machine: host keys, logs, and who is at work."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHARED = Path("/tmp")
_LONGEST_PATH = 107  # that the kernel takes for a socket
_LONGEST_FOLDER = _LONGEST_PATH - len("/") - 40 - 17  # the name of a connection, as ssh makes it


class ClusterBusyError(Exception):
    """Another command changes the cluster at this moment."""


def busy(cluster: str, who: str) -> ClusterBusyError:
    """The error that names who is at work."""
    return ClusterBusyError(
        f"Cluster {cluster} is being changed by {who or 'another'}: wait for it, or interrupt it."
    )


class ClusterHome:
    """``~/.nbray/clusters/NAME``; nothing in it is needed by another launching machine."""

    def __init__(self, name: str, root: Path | None = None) -> None:
        self.name = name
        self.folder = (root or Path.home() / ".nbray" / "clusters") / name

    def make(self) -> None:
        """Make it, closed to others."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(mode=0o700, exist_ok=True)

    @property
    def known_hosts(self) -> Path:
        """The keys of hosts that were new."""
        return self.folder / "known_hosts"

    def log(self, host: str) -> Path:
        """What the commands on a host wrote at the last `up`."""
        return self.folder / "logs" / f"{host.replace('/', '_')}.log"

    @contextmanager
    def at_work(self, what: str) -> Iterator[str]:
        """Change the cluster as the only one on this machine; who that is, for others.

        Raises:
            ClusterBusyError: somebody else does; it names who.
        """
        self.make()
        with open(self.folder / "lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise busy(self.name, file.read().strip()) from None
            who = (
                f"`nbray {what}`, pid {os.getpid()} on {socket.gethostname()}, since "
                f"{time.strftime('%H:%M:%S')}"
            )
            file.truncate(0)
            file.write(f"{who}\n")
            file.flush()
            try:
                yield who
            finally:
                file.truncate(0)


def control_folder() -> Path:
    """Where shared connections have their sockets: a short path, and private.

    Raises:
        PermissionError: somebody else has the folder.
    """
    name = f"nbray-ssh-{os.getuid()}"
    folder = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        folder = _SHARED / name
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not ours or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(
            f"{folder} must be a folder of yours with mode 0700: remove it, or set TMPDIR."
        )
    return folder
