"""Where in the user's program something is made, for errors that have to name it."""

from __future__ import annotations

import sys

from nbray.core_worker.context import running


def where_made() -> str:
    """The task that runs, or the first line of this thread's stack that is not nbray's."""
    task = running.get()
    if task is not None:
        return f"{task.name}()"
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if not frame.f_globals.get("__name__", "").startswith("nbray."):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
