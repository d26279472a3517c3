"""Output without a notebook's cell: printed line by line."""

from __future__ import annotations

import json
import sys

from nbray.common.text import one_line
from nbray.notebook import OutputDisplay, OutputLines


def print_plainly(message: OutputLines | OutputDisplay, marked: bool = True) -> None:
    """See `nbray.notebook.Output`."""
    source = message.source
    who = f"({one_line(source.name)} pid={source.pid}) " if marked else ""
    if isinstance(message, OutputDisplay):
        plain = json.loads(message.content).get("data", {}).get("text/plain", "")
        text, stream = f"{plain}\n" if plain else "", "stdout"
    else:
        text, stream = message.text, message.stream
    target = sys.stderr if stream == "stderr" else sys.stdout
    for line in text.splitlines():
        target.write(f"{who}{line}\n")
    target.flush()
