"""``nbray start --block``: the command stays with its node, and tells how that ended."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import psutil

from nbray.cli.leaving import NOTICES, drain, was_drained
from nbray.cli.leaving import children_ignore_notices as children_ignore_notices
from nbray.cli.terminal import CliError, say
from nbray.launcher.local import RunningNode


def stay(node: RunningNode, keep_session: bool) -> None:
    """Until SIGINT or SIGTERM, or until the raylet ends; it brings a GCS back itself."""
    left = threading.Event()
    notices: list[int] = []

    def leave(_number: int, _frame: FrameType | None) -> None:
        left.set()

    def note(number: int, _frame: FrameType | None) -> None:
        notices.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    for number in NOTICES:
        signal.signal(number, note)
    raylet = psutil.Process(node.children[-1].pid)
    while not left.wait(0.2):
        if notices:
            say(drain(node, notices.pop()))
            notices.clear()
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
