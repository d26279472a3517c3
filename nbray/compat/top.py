"""The module ``ray``: nbray's public names, Ray's version, and Ray's modules at their first use."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from enum import Enum
from types import ModuleType
from typing import Any

import nbray
from nbray.calls.runtime_context import RuntimeContext
from nbray.compat import RAY_VERSION
from nbray.compat.missing import missing_name

# Ray's numbers of what a process is, which libraries compare with `global_worker.mode`.
SCRIPT_MODE, WORKER_MODE, SPILL_WORKER_MODE, RESTORE_WORKER_MODE = range(4)


class Language(Enum):
    """Of a function or a class; only the first occurs."""

    PYTHON = 0
    JAVA = 1
    CPP = 2


_NAMES: dict[str, Any] = {
    "SCRIPT_MODE": SCRIPT_MODE, "WORKER_MODE": WORKER_MODE,
    "SPILL_WORKER_MODE": SPILL_WORKER_MODE, "RESTORE_WORKER_MODE": RESTORE_WORKER_MODE,
    "Language": Language, "logger": logging.getLogger("nbray"),
}  # fmt: skip


class _Ray(ModuleType):
    """A module whose names are nbray's; what is set on it is set on it alone."""

    __version__ = RAY_VERSION
    __commit__ = f"nbray {nbray.__version__}"

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES:
            return _NAMES[name]
        if hasattr(nbray, name):
            return getattr(nbray, name)
        from nbray.compat.finder import home_of

        home = None if name.startswith("__") else home_of(f"ray.{name}")
        if home is None:
            raise missing_name("ray", name)
        return importlib.import_module(home)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(nbray), *_NAMES})

    def __reduce__(self) -> tuple[Callable[[], ModuleType], tuple[()]]:
        return _the_module, ()


def _worker(_context: RuntimeContext) -> Any:
    return importlib.import_module("nbray.compat.modules._private.worker").global_worker


# Not among Ray's documented names, but libraries ask it what the process is.
RuntimeContext.worker = property(_worker)  # type: ignore[attr-defined]

ray = _Ray("ray", nbray.__doc__)
ray.__file__ = nbray.__file__
ray.__path__ = []
ray.__all__ = nbray.__all__  # type: ignore[attr-defined]


def _the_module() -> ModuleType:
    """``ray`` where it was pickled to, whether or not that process knows the name."""
    return ray
