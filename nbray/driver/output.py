"""Where the output of remote code goes in the driver, and what submissions belong to.

A driver may number what it submits: a notebook gives each cell a number. The number (the origin)
travels with tasks, with what they submit and with their output.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

from nbray.common.text import one_line, printable
from nbray.core_worker.context import origin as _origin
from nbray.core_worker.context import set_origin_finder
from nbray.core_worker.run.output import current_output
from nbray.wire.records import OutputSource
from nbray.wire.watching_messages import OutputDisplay, OutputLines

__all__ = [
    "OutputDisplay",
    "OutputLines",
    "OutputSource",
    "deliver",
    "display",
    "in_worker",
    "print_plainly",
    "set_origin",
    "set_origin_finder",
    "set_output_handler",
    "set_warning_handler",
    "warn",
]

logger = logging.getLogger(__name__)

OutputHandler = Callable[[OutputLines | OutputDisplay], None]
_handler: OutputHandler | None = None
_warning_handler: Callable[[str, int], None] | None = None
_unfinished: dict[tuple[bytes, str], str] = {}


def set_output_handler(handler: OutputHandler | None) -> None:
    """Give the output of tasks to ``handler`` instead of printing it; None prints it again.

    It is called by whichever thread drives the sockets, which may be one that waits in `get`:
    it must return at once, and must not call nbray.
    """
    global _handler
    _handler = handler


def set_warning_handler(handler: Callable[[str, int], None] | None) -> None:
    """Give what the cluster warns of, and its origin, to ``handler`` instead of printing it."""
    global _warning_handler
    _warning_handler = handler


def warn(text: str, origin: int = 0) -> None:
    """Show one warning, to which nobody has to react; ``origin`` is that of what it is about."""
    if _warning_handler is None:
        _write(sys.stderr, f"{printable(text)}\n")
    else:
        _warning_handler(text, origin)


def set_origin(number: int) -> None:
    """What this thread or coroutine submits from now on belongs to ``number``, 0 to nothing."""
    _origin.set(number)


def in_worker() -> bool:
    """Whether this process is a worker, whose output goes to a driver."""
    return current_output() is not None


def display(kind: str, content: dict[str, Any]) -> None:
    """Send something rich to this worker's driver.

    Args:
        kind: ``display_data``, ``update_display_data`` or ``clear_output``.
        content: that message's content as Jupyter defines it; JSON, pictures as base64.

    Raises:
        RuntimeError: this process is not a worker.
    """
    worker = current_output()
    if worker is None:
        raise RuntimeError("nbray.driver.output.display is for workers.")
    worker.display(kind, content)


def deliver(message: OutputLines | OutputDisplay) -> None:
    """Show one message of output. An error of the handler is logged: whoever waits goes on."""
    try:
        (_handler or print_plainly)(message)
    except Exception:
        logger.exception("Output of %s could not be shown.", message.source.name)


def print_plainly(message: OutputLines | OutputDisplay, marked: bool = True) -> None:
    """Print it line by line, as a plain program does.

    Args:
        message: what a task printed.
        marked: name the function and the process in front of each line.
    """
    source = message.source
    who = f"({one_line(source.name)} pid={source.pid}) " if marked else ""
    if isinstance(message, OutputDisplay):
        plain = json.loads(message.content).get("data", {}).get("text/plain", "")
        text, stream, dropped = f"{plain}\n" if plain else "", "stdout", 0
    else:
        text, stream, dropped = message.text, message.stream, message.dropped
    key = (source.task_id, stream)
    *lines, rest = (_unfinished.pop(key, "") + text).split("\n")
    if "\r" in rest:  # a progress bar: only its last state is printed
        _unfinished[key] = rest
        while len(_unfinished) > 1000:
            del _unfinished[next(iter(_unfinished))]
    elif rest:
        lines.append(rest)
    shown = [f"{who}{line.rstrip(chr(13)).rpartition(chr(13))[2]}\n" for line in lines]
    if dropped:
        shown.append(f"{who}... {dropped:,} more lines are in {source.log}\n")
    _write(sys.stderr if stream == "stderr" else sys.stdout, "".join(shown))


def _write(target: TextIO | None, text: str) -> None:
    """Write text to a stream, with escapes for what it cannot take."""
    if target is None:  # as in a program without a terminal
        return
    try:
        target.write(text)
    except UnicodeEncodeError:
        encoding = target.encoding or "ascii"
        target.write(text.encode(encoding, "backslashreplace").decode(encoding))
    target.flush()
