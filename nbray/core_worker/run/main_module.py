"""The module ``__main__`` of a worker, in which the program's classes are found.

They have come by value and belong to no module that could be imported here. A pickler that goes by
names, as those of the standard library do, finds them all the same: in this process and its forks.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from nbray import cloudpickle


class _Main(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for cls in cloudpickle.arrived_classes():
                if cls.__module__ == "__main__" and cls.__qualname__ == name:
                    return cls
        raise AttributeError(f"module '__main__' of this worker has no attribute {name!r}")


def install() -> None:
    """The worker template is not the program's ``__main__``; this is."""
    sys.modules["__main__"] = _Main("__main__", "The main module of the program that is run here.")
