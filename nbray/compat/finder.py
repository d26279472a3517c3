"""The finder that answers ``import ray`` and ``import ray.X`` with nbray's own modules.

A module has one object under both names, so that ``ray.exceptions.RayError`` is
``nbray.exceptions.RayError`` and pickles name nbray's modules, which every worker has. Only
``ray`` itself is a module of its own, since its ``__version__`` is Ray's.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from os import PathLike
from pathlib import Path
from types import ModuleType

from nbray.compat.missing import missing_module

# What nbray has at Ray's paths; all else of it is nbray's own matter.
_SHARED = {
    "actor", "autoscaler", "cloudpickle", "cluster_utils", "dag", "exceptions", "experimental",
    "job_config", "job_submission", "remote_function", "runtime_context", "runtime_env", "types",
    "util",
}  # fmt: skip
_MOVED = {
    "experimental.multiprocessing": "util.multiprocessing",
    "experimental.queue": "util.queue",
    "experimental.state": "util.state",
    "runtime_env.runtime_env": "runtime_env",
    "util.joblib.ray_backend": "util.joblib",
}
"""Where nbray has what Ray has at another path."""

_OWN = "nbray.compat.modules"


def home_of(name: str) -> str | None:
    """The module of nbray that stands behind ``name``, a module of Ray; None if none does."""
    _, _, path = name.partition(".")
    if not path:
        return "nbray.compat.top"
    for old, new in _MOVED.items():
        if path == old or path.startswith(f"{old}."):
            path = new + path.removeprefix(old)
    shared = path.partition(".")[0] in _SHARED
    home = f"nbray.{path}" if shared else f"{_OWN}.{path}"
    try:
        return home if importlib.util.find_spec(home) is not None else None
    except ModuleNotFoundError:  # its parent is no package
        return None


def installed_ray() -> str | None:
    """Where Ray itself is installed, as far as the import path knows."""
    spec = PathFinder.find_spec("ray")
    if spec is None or spec.origin is None or spec.origin.startswith(_PATH_FOLDER):
        return None
    return spec.origin


_PATH_FOLDER = __file__.rpartition("/")[0] + "/path/"


class _Loader(Loader):
    """Gives the module that stands behind a name; nothing is executed twice."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._spec: ModuleSpec | None = None
        self._class = ModuleType

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._home)
        if self._home == home_of("ray"):
            module = module.ray
        else:
            self._spec = module.__spec__
        self._class = type(module)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if type(module) is not self._class:  # `importlib.util.LazyLoader` has put its own there
            module.__class__ = self._class
        if self._spec is not None:
            module.__spec__ = self._spec  # the import system has put the other name's there


class RayFinder(MetaPathFinder):
    """Answers for ``ray`` and all below it, and for the distribution of that name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What to import for ``fullname``.

        Raises:
            ModuleNotFoundError: it is below ``ray``, and nbray has nothing like it.
        """
        if fullname != "ray" and not fullname.startswith("ray."):
            return None
        home = home_of(fullname)
        if home is None:
            if _only_asks():
                return None
            raise missing_module(fullname)
        found = ModuleSpec(fullname, _Loader(home), is_package=True)
        return found

    def find_distributions(
        self,
        context: importlib.metadata.DistributionFinder.Context | None = None,
    ) -> Iterator[importlib.metadata.Distribution]:
        """The distribution "ray": libraries look whether it is installed, and its version."""
        name = None if context is None else context.name
        if name is None or name.lower() == "ray":  # None: all that there are
            yield _RayDistribution()


def _only_asks() -> bool:
    """Whether `importlib.util.find_spec` asks, which is to hear None of what is not there."""
    frame = sys._getframe(2)
    asks = importlib.util.find_spec.__code__
    return any(f is not None and f.f_code is asks for f in (frame, frame.f_back))


class _RayDistribution(importlib.metadata.Distribution):
    """What `importlib.metadata` tells of a package that it finds."""

    def read_text(self, filename: str) -> str | None:
        from nbray.compat import RAY_VERSION

        if filename != "METADATA":
            return None
        return (
            f"Metadata-Version: 2.1\nName: ray\nVersion: {RAY_VERSION}\n"
            "Summary: nbray under Ray's name (nbray.compat)\n"
        )

    def locate_file(self, path: str | PathLike[str]) -> Path:
        raise FileNotFoundError(f"{path}: nbray stands for ray here, and has no files of it.")
