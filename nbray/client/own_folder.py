"""The folder of a remote driver: its own sockets and logs, and what its agent has to know.

The agent removes it. What cannot say goodbye to the gateway any more is handed on, folder and all,
to a process that does so in its stead (`farewell`): the gateway would keep the driver's part in the
cluster for as long as one may be away. An agent hands on that leaves while the path is cut; the
driver, if its agent was killed; and if both were, the next program that makes such a folder.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from nbray.common.process import spawn
from nbray.common.session import Session
from nbray.common.session_roots import sessions_root

logger = logging.getLogger(__name__)

AGENT_SOCKET = "agent"
DRIVER_SOCKET = "driver"
_PREFIX, _INNER = "remote-", "r"
_NOTE = "note"


class Note(msgspec.Struct):
    """What is kept in the folder of the driver's tunnel.

    Attributes:
        tunnel: its id, which only the driver's side and the gateway know.
        address: where the gateway is.
        grace_s: how long the driver may be away.
    """

    tunnel: bytes
    address: str
    grace_s: float

    @classmethod
    def of(cls, session: Session) -> Note:
        """What is kept there.

        Raises:
            OSError, ValueError: there is none that can be read.
        """
        return msgspec.msgpack.decode(session.read_secret(_NOTE), type=cls)


def own_folder(token: bytes, address: str, grace_s: float) -> tuple[Session, Note]:
    """A folder for the sockets and logs of this program and its agent, which removes it.

    Those of programs that were killed together with their agents are handed on now.
    """
    root = sessions_root()
    for left in root.glob(f"{_PREFIX}*"):
        if (session := Session(left / _INNER)).has_no_starter():
            hand_on(session)
    # A folder deeper than those of nodes, where nobody looks for a cluster of this machine.
    session = Session(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root)) / _INNER)
    note = Note(os.urandom(16), address, grace_s)
    try:
        for folder in (session.path, session.path / "sockets", session.path / "logs"):
            folder.mkdir(mode=0o700)
        session.keep_starter()
        session.write_secret("token", token)
        session.write_secret(_NOTE, msgspec.msgpack.encode(note))
    except OSError:
        remove(session)
        raise
    return session, note


def hand_on(session: Session) -> None:
    """Have a process of its own say goodbye for a driver, and remove its folder."""
    try:
        Note.of(session)
        spawn(
            "nbray.client.farewell", ["--session-dir", str(session.path)],
            session.log_path("farewell.log"), fate_shared=False,
        ).do_not_wait()  # fmt: skip
    except (ValueError, FileNotFoundError):  # nothing was said to a gateway
        remove(session)
    except OSError as error:  # the next program may have room for a process
        logger.warning("Nobody says goodbye to the cluster for a driver: %s", error)


def remove(session: Session) -> None:
    """Delete the folder of a remote driver."""
    shutil.rmtree(session.path.parent, ignore_errors=True)
