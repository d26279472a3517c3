"""The folder of a remote driver: its own sockets and logs, and what its agent has to know."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from nbray.common.session import Session
from nbray.common.session_roots import sessions_root

AGENT_SOCKET = "agent"
DRIVER_SOCKET = "driver"
_PREFIX, _INNER = "remote-", "r"


def own_folder(token: bytes) -> Session:
    """A folder for the sockets and logs of this program and its agent, which removes it.

    Those of programs that were killed together with their agents are removed now.
    """
    root = sessions_root()
    for left in root.glob(f"{_PREFIX}*"):
        if (session := Session(left / _INNER)).has_no_starter():
            remove(session)
    # A folder deeper than those of nodes, where nobody looks for a cluster of this machine.
    session = Session(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root)) / _INNER)
    try:
        for folder in (session.path, session.path / "sockets", session.path / "logs"):
            folder.mkdir(mode=0o700)
        session.keep_starter()
        session.write_secret("token", token)
    except OSError:
        remove(session)
        raise
    return session


def remove(session: Session) -> None:
    """Delete the folder of a remote driver."""
    shutil.rmtree(session.path.parent, ignore_errors=True)
