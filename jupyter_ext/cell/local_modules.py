"""The person's own modules: edited beside the notebook, they are sent to the workers again.

Local are modules of files that belong neither to Python nor to installed packages. Before a
function, a class or a cell is pickled for the first time in a cell of the notebook, their files
are looked at. Their sources travel inside the pickle (see `Placed`), so that they arrive before
anything that was pickled with them, also on machines without these files:

- those below the working directory, as long as all of them together are small;
- those that were edited since the kernel came into the cluster, in any case.

With them go the working directory and the entries of ``sys.path`` that came later. What is not
local, and a notebook that has no local modules, costs nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from nbray.common.folders import current_folder

from ..messages import DriverPlace, SourceFile
from ..worker.modules import place_function
from .places import is_users

_INTERPRETERS = (sys.prefix + os.sep, sys.base_prefix + os.sep)
_UNEDITED_LIMIT = 256 * 1024


@dataclass
class _File:
    path: str
    is_package: bool
    stamp: tuple[int, int]
    source: bytes
    edited: bool = False


class Source(Protocol):
    """Where an own module is."""

    @property
    def path(self) -> str:
        """Its file."""

    @property
    def is_package(self) -> bool:
        """Whether it has modules below it."""


class Placed:
    """A function that unpickles after the driver's modules have been put in their places."""

    def __init__(self, place: DriverPlace, target: Any) -> None:
        self._place = place
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        from nbray import cloudpickle

        return place_function, (self._place, cloudpickle.dumps(self._target))


class LocalModules:
    """The local modules of this kernel."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._foreign: set[str] = set()
        self._watched: set[str] = set()
        self._base: tuple[str, tuple[str, ...]] = self._surroundings()
        self._place: DriverPlace | None = None
        self._stale = True
        self._moved = False

    def joined(self) -> None:
        """The kernel came into a cluster, whose workers know its place as it is now."""
        self._base = self._surroundings()
        self._moved = False
        self._files.clear()
        self._scan()
        self._stale = True

    def new_cell(self) -> None:
        """Look again before the next pickle."""
        self._stale = True

    def watch(self, names: Iterable[str]) -> None:
        """Modules that a cell imports in the worker, though the kernel has not."""
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.modules and top not in self._watched:
                self._watched.add(top)
                self._stale = True

    def bring(self, files: Mapping[str, Source]) -> None:
        """Have the workers use these sources as they are now, whatever they have loaded."""
        for name, file in files.items():
            if file.path.endswith(".py"):
                if name not in self._files:
                    self._add(name, file.path, file.is_package)
                if name in self._files:
                    self._files[name].edited = True
        self._stale = self._stale or bool(files)

    def wrap(self, target: Any) -> Any:
        """``target``, or what stands for it in a pickle when there is something to bring along."""
        if self._stale:
            self._stale = False
            self._place = self._look()
        return target if self._place is None else Placed(self._place, target)

    def place(self) -> DriverPlace:
        """Where this kernel stands now, for workers that know nothing of it."""
        self.wrap(None)
        return self._place or DriverPlace(*self._surroundings(), ())

    def _look(self) -> DriverPlace | None:
        edited = self._scan()
        if edited:
            files = ", ".join(Path(self._files[name].path).name for name in sorted(edited))
            here = sorted(name for name in edited if name in sys.modules)
            hint = f" importlib.reload({here[0]}) does it here." if here else ""
            print(f"Edited since it was last used: {files}. The workers take it anew.{hint}")
        surroundings = self._surroundings()
        self._moved = self._moved or surroundings != self._base
        folder = surroundings[0]
        below = f"{folder}{os.sep}" if folder else "\0"  # nothing lies in a folder that was removed
        near = {n: f for n, f in self._files.items() if f.edited or f.path.startswith(below)}
        packed = {n: zlib.compress(f.source) for n, f in near.items()}
        if sum(map(len, packed.values())) > _UNEDITED_LIMIT:
            packed = {n: data for n, data in packed.items() if self._files[n].edited}
        if not packed and not self._moved:
            return None
        sources = tuple(
            SourceFile(
                name, near[name].path, near[name].is_package, data,
                hashlib.blake2b(near[name].source, digest_size=8).hexdigest(),
            )
            for name, data in sorted(packed.items())
        )  # fmt: skip
        return DriverPlace(*surroundings, sources)

    def _scan(self) -> set[str]:
        """Look at all files; returns the names of those that were edited since the last time."""
        edited = set()
        for name in list(sys.modules):
            if name not in self._foreign and name not in self._files:
                found = _local_file(sys.modules.get(name))
                if found is None:
                    self._foreign.add(name)
                else:
                    self._add(name, *found)
        for name in self._watched - self._files.keys():
            spec = _find_spec(name)
            if spec is not None and spec.origin and _is_local(spec.origin):
                self._add(name, spec.origin, bool(spec.submodule_search_locations))
        for name, file in self._files.items():
            stamp = _stamp(file.path)
            if stamp is None or stamp == file.stamp:
                continue
            source = Path(file.path).read_bytes()
            if source != file.source:
                file.source, file.edited = source, True
                edited.add(name)
            file.stamp = stamp
        return edited

    def _add(self, name: str, path: str, is_package: bool) -> None:
        stamp = _stamp(path)
        if stamp is not None:
            self._files[name] = _File(path, is_package, stamp, Path(path).read_bytes())

    @staticmethod
    def _surroundings() -> tuple[str, tuple[str, ...]]:
        return current_folder(), tuple(entry for entry in sys.path if entry)


def _find_spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _local_file(module: ModuleType | None) -> tuple[str, bool] | None:
    path = getattr(module, "__file__", None)
    if module is None or module.__name__ == "__main__" or not isinstance(path, str):
        return None
    return (path, hasattr(module, "__path__")) if _is_local(path) else None


def _is_local(path: str) -> bool:
    return path.endswith(".py") and is_users(path) and not path.startswith(_INTERPRETERS)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
