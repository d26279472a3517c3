"""The module ``ray``: nbray's public names, Ray's version, and Ray's modules at their first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import nbray
from nbray.compat import RAY_VERSION
from nbray.compat.missing import missing_name

# Ray's numbers of what a process is, which libraries compare with `global_worker.mode`.
_NAMES = {"SCRIPT_MODE": 0, "WORKER_MODE": 1, "SPILL_WORKER_MODE": 2, "RESTORE_WORKER_MODE": 3}


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


ray = _Ray("ray", nbray.__doc__)
ray.__file__ = nbray.__file__
ray.__path__ = []
ray.__all__ = nbray.__all__  # type: ignore[attr-defined]


def _the_module() -> ModuleType:
    """``ray`` where it was pickled to, whether or not that process knows the name."""
    return ray
