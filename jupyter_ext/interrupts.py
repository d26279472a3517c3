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

import nbray
from nbray import TaskID
from nbray.jupyter_ext.settings import Settings
from nbray.util import local_state

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
    """The tasks that the cell which runs now has submitted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._before: tuple[bytes, int] | None = None
        self.handled = False

    def begin(self) -> None:
        """A cell begins."""
        self.handled = False
        self._before = _order(nbray.put(None).task_id()) if nbray.is_initialized() else None

    def unfinished(self) -> list[TaskID]:
        """Those that are not done."""
        if self._before is None or not nbray.is_initialized():
            return []
        prefix, number = self._before
        orders = [(task, *_order(task)) for task in local_state.unfinished_tasks()]
        return [task for task, maker, place in orders if maker == prefix and place > number]

    def end(self, result: Any) -> None:
        """A cell has ended; if that was by an interrupt, its tasks are stopped."""
        error = getattr(result, "error_in_exec", None)
        if self.handled or not isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            return
        tasks = self.unfinished()
        if not tasks or self._settings.on_interrupt == "detach":
            return

        def ended(seconds: float) -> bool:
            until = time.monotonic() + seconds
            mine = {task.binary() for task in tasks}
            while mine & {task.binary() for task in local_state.unfinished_tasks()}:
                if time.monotonic() >= until:
                    return False
                time.sleep(0.02)
            return True

        outcome = stop(
            ended,
            lambda force: local_state.cancel_tasks(tasks, force=force),
            self._settings.interrupt_grace,
        )
        what = f"{len(tasks)} tasks" if len(tasks) > 1 else "1 task"
        print(f"{what} of this cell: {outcome}.", file=sys.stderr, flush=True)


def _order(task: TaskID) -> tuple[bytes, int]:
    """Who made a task id, and its number among those."""
    binary = task.binary()
    return binary[:12], int.from_bytes(binary[12:20], "little")
