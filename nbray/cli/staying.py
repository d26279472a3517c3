"""``nbray start --block``: the command stays with its node, and tells how that ended."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass, field
from types import FrameType

import psutil

from nbray.cli.leaving import Drain, was_drained
from nbray.cli.leaving import notices_wait as notices_wait
from nbray.cli.terminal import CliError, say
from nbray.common.process import NOTICES
from nbray.launcher.local import RunningNode


@dataclass
class Heard:
    """The signals that have come: one to leave, and notices."""

    leave: threading.Event = field(default_factory=threading.Event)
    notices: list[int] = field(default_factory=list)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """What a signal does."""
        if number in NOTICES:
            self.notices.append(number)
        else:
            self.leave.set()


def hear_signals() -> Heard:
    """From now on signals are noted, and end nothing."""
    heard = Heard()
    for number in (signal.SIGINT, signal.SIGTERM, *NOTICES):
        signal.signal(number, heard.handle)
    return heard


def stay(node: RunningNode, keep_session: bool, heard: Heard) -> None:
    """Until SIGINT or SIGTERM, or until the raylet ends; it brings a GCS back itself."""
    raylet, drain = psutil.Process(node.children[-1].pid), Drain(node, say)
    while not heard.leave.wait(0.2):
        if heard.notices and drain.ask(heard.notices[-1]):
            heard.notices.clear()
        if raylet.status() == psutil.STATUS_ZOMBIE:
            _tell_end(node, raylet.pid, keep_session)
            return
    node.stop(keep_session=keep_session)


def _tell_end(node: RunningNode, raylet: int, keep_session: bool) -> None:
    """The raylet has ended by itself."""
    reason = was_drained(node)
    log = node.session.log_path("raylet.log").read_text(errors="replace")
    node.stop(keep_session=keep_session)
    if reason:
        say(f"The node was drained, and has left: {reason}.")
        return
    raise CliError(
        f"The raylet of the node ended by itself (pid {raylet}), so the node was stopped. The end "
        f"of its log:\n{log[-2000:].strip() or '(it is empty)'}"
    )
