"""The module ``__main__`` of a remote cell, as a kernel has one.

While a cell runs, `sys.modules` leads to a module whose names are the cell's: so its classes can
be pickled, its functions run in a pool of processes, and annotations, doctests and ``import
__main__`` find what they mean. Afterwards the module of before stands there again, for plain
tasks in this worker.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_lock = threading.Lock()
_running: list[ModuleType] = []
_before: ModuleType | None = None


def new_main() -> ModuleType:
    """A module for a cell's names."""
    module = ModuleType("__main__")
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    return module


@contextmanager
def as_main(module: ModuleType) -> Iterator[None]:
    """Let ``__main__`` be ``module``. Cells that run at once, in threads of an actor, end in any
    order: the one that began last has the name.
    """
    global _before
    with _lock:
        if not _running:
            _before = sys.modules["__main__"]
        _running.append(module)
        sys.modules["__main__"] = module
    try:
        yield
    finally:
        with _lock:
            _running.reverse()
            _running.remove(module)  # the last of them, if it runs twice
            _running.reverse()
            assert _before is not None
            sys.modules["__main__"] = _running[-1] if _running else _before
