"""What an interrupt does: the first asks the cell's tasks to stop, the second kills their workers.

For a remote cell the wait for its end is interrupted. An ordinary cell that submitted tasks is
interrupted wherever it stands, mostly in `nbray.get`; after it has ended by that, those of its
tasks that are not done are stopped in the same way (`CellTasks`). Either way the prompt comes back
within the grace of `Settings.interrupt_grace`, and cluster and kernel live on.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from nbray.common.ids import TaskID
from nbray.notebook import engine

from ..settings import Settings

_KILL_S = 10.0
_QUIET_S = 0.3


def stop(ended: Callable[[float], bool], cancel: Callable[[bool], None], grace: float) -> str:
    """Ask, and kill when a second interrupt comes.

    Args:
        ended: waits so many seconds for the end of all that is to stop.
        cancel: asks it to stop, or with True kills it.
        grace: seconds until the prompt comes back in any case.

    Returns:
        ``stopped``, ``killed``, or ``still running``.
    """
    try:
        cancel(False)
        if ended(_QUIET_S):
            return "stopped"
        print("Asked it to stop; interrupt again to kill its workers.", file=sys.stderr, flush=True)
        return "stopped" if ended(max(0.0, grace - _QUIET_S)) else "still running"
    except KeyboardInterrupt:
        cancel(True)
        until = time.monotonic() + _KILL_S
        while time.monotonic() < until:
            try:
                return "killed" if ended(until - time.monotonic()) else "still running"
            except KeyboardInterrupt:
                continue
        return "still running"


class CellTasks:
    """The tasks that the cell which runs now has submitted: they carry its number."""

    def __init__(self, settings: Settings, number: Callable[[], int]) -> None:
        """``number`` is that of the cell which runs now."""
        self._settings = settings
        self._number = number
        self.handled = False

    def begin(self) -> None:
        """A cell begins."""
        self.handled = False

    def unfinished(self) -> list[TaskID]:
        """Those that are not done."""
        return engine().tasks.unfinished(self._number()) if engine().api.is_initialized() else []

    def end(self, result: Any) -> None:
        """A cell has ended; if that was by an interrupt, its tasks are stopped."""
        error = getattr(result, "error_in_exec", None)
        if self.handled or not isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            return
        if self._settings.on_interrupt == "detach":
            return
        try:
            tasks = self.unfinished()
        except KeyboardInterrupt:  # the second one: `stop` below has not begun
            tasks = self.unfinished()
        if not tasks:
            return

        def ended(seconds: float) -> bool:
            until = time.monotonic() + seconds
            mine = {task.binary() for task in tasks}
            while mine & {task.binary() for task in engine().tasks.unfinished()}:
                if time.monotonic() >= until:
                    return False
                time.sleep(0.02)
            return True

        outcome = stop(
            ended,
            lambda force: engine().tasks.interrupt(tasks, force=force),
            self._settings.interrupt_grace,
        )
        what = f"{len(tasks)} tasks" if len(tasks) > 1 else "1 task"
        print(f"{what} of this cell: {outcome}.", file=sys.stderr, flush=True)
