"""Ways to die, and values that die when they are pickled, unpickled or deleted."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def die(how: str) -> None:
    """End, or fail, in this way; "not" does not."""
    if how == "exception":
        raise ValueError("how it dies")
    if how == "sys.exit":
        sys.exit(3)
    if how == "os._exit":
        os._exit(3)
    if how.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[how])
        signal.pause()


class DiesWhenPickled:
    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        die(self.how)
        return str, ()


class DiesWhenUnpickled:
    """It comes as what `die` returns, where that returns."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return die, (self.how,)


class DiesWhenDeleted:
    def __init__(self, how: str) -> None:
        self.how = how

    def __del__(self) -> None:
        die(self.how)
