"""Where the output of remote code goes in the driver."""

from __future__ import annotations

import sys
from collections.abc import Callable

from nbray.wire.messages import OutputLines

OutputHandler = Callable[[OutputLines], None]
_handler: OutputHandler | None = None


def set_output_handler(handler: OutputHandler | None) -> None:
    """Give printed text of tasks to ``handler`` (on a background thread) instead of printing it."""
    global _handler
    _handler = handler


def deliver(lines: OutputLines) -> None:
    """Show one message of output."""
    if _handler is not None:
        _handler(lines)
        return
    stream = sys.stderr if lines.stream == "stderr" else sys.stdout
    for line in lines.text.splitlines():
        stream.write(f"({lines.name} pid={lines.pid}) {line}\n")
    stream.flush()
