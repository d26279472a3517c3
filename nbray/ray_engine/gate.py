"""Who uses Ray while the kernel leaves the cluster.

Ray ends the whole process when a thread calls it after its shutdown. So each thread that is not
the person's own calls Ray through the gate, and leaving the cluster shuts it and waits for those
inside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_Value = TypeVar("_Value")


class Gate:
    """Shut at first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._open = False

    def open(self) -> None:
        """Ray may be called from now on."""
        with self._changed:
            self._open = True

    def shut(self, seconds: float) -> bool:
        """Let nobody in any more; whether all have come out within so many seconds."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: not self._inside, seconds)

    def through(self, action: Callable[[], _Value], otherwise: _Value) -> _Value:
        """What ``action`` returns, or ``otherwise`` while the gate is shut."""
        with self._changed:
            if not self._open:
                return otherwise
            self._inside += 1
        try:
            return action()
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()
