"""Which node a host runs for a cluster of `nbray up`: a folder that the command is told of.

Only the command reads the variable, and takes it out of the environment: what users run on the node
later is not meant by it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nbray.common.session import Session

RECORD_VARIABLE = "NBRAY_NODE_RECORD"
_INSTANCE_LABEL = "nbray.io/instance-id"


@dataclass(frozen=True)
class NodeRecord:
    """The folder; in it ``session``, a link to the node's, ``python``, what runs it, ``instance``,
    what an autoscaler knows the node by, and ``running`` once the node is up.
    """

    folder: Path

    @classmethod
    def from_environment(cls) -> NodeRecord | None:
        """The one that `nbray up` named, once."""
        named = os.environ.pop(RECORD_VARIABLE, "")
        return cls(Path(named)) if named else None

    @property
    def session(self) -> Session | None:
        """The session of the node that was started last; it may have ended."""
        link = self.folder / "session"
        return Session(Path(os.readlink(link))) if link.is_symlink() else None

    def keep(self, session: Session, labels: Mapping[str, str] | None = None) -> None:
        """A node with those labels begins, in this folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "running").unlink(missing_ok=True)
        (self.folder / "python").write_text(f"{sys.executable}\n")
        (self.folder / "instance").write_text((labels or {}).get(_INSTANCE_LABEL, "") + "\n")
        new = self.folder / ".session"
        new.unlink(missing_ok=True)
        new.symlink_to(session.path)
        new.rename(self.folder / "session")

    def is_up(self) -> None:
        """The node runs: the folder of a session that comes back says so before that, too."""
        (self.folder / "running").touch(mode=0o600)
