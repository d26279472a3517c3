"""What functions and classes of the notebook do when they arrive."""

from __future__ import annotations

import linecache
from typing import Any

from nbray.notebook import engine


def arrive(target: Any, sources: dict[str, str]) -> Any:
    """What a `Shipped` becomes where it arrives."""
    for filename, text in sources.items():
        lines = text.splitlines(keepends=True)
        linecache.cache[filename] = (len(text), None, lines, filename)
    if engine().output.in_worker():
        from . import display as worker_display

        worker_display.install()
    return target
