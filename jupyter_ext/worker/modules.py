"""The worker's side of the person's own modules: sources from the driver, imported from memory."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import linecache
import os
import pickle
import sys
import zlib
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

from nbray.common.folders import current_folder

from ..messages import DriverPlace, SourceFile


class SentModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules that came from the driver before any file."""

    def __init__(self) -> None:
        self._sources: dict[str, SourceFile] = {}
        self._loaded: dict[str, str] = {}

    def take(self, sources: Sequence[SourceFile]) -> None:
        """Know these; when one of them is loaded in another version, all are loaded anew.

        All, since they may have imported each other.
        """
        self._sources.update({source.name: source for source in sources})
        stale = any(
            source.name in sys.modules and self._loaded.get(source.name) != source.digest
            for source in sources
        )
        if stale:
            for name in self._sources:
                sys.modules.pop(name, None)
                self._loaded.pop(name, None)
            importlib.invalidate_caches()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The import system asks."""
        source = self._sources.get(fullname)
        if source is None:
            return None
        spec = importlib.machinery.ModuleSpec(
            fullname, self, origin=source.path, is_package=source.is_package
        )
        spec.has_location = True
        if source.is_package:
            spec.submodule_search_locations = [os.path.dirname(source.path)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Run the source in the new module."""
        source = self._sources[module.__name__]
        text = zlib.decompress(source.source)
        lines = text.decode().splitlines(keepends=True)
        linecache.cache[source.path] = (len(text), None, lines, source.path)
        code: CodeType = compile(text, source.path, "exec", dont_inherit=True)
        self._loaded[module.__name__] = source.digest
        exec(code, module.__dict__)


_finder = SentModules()


def place_function(place: DriverPlace, pickled: bytes) -> Any:
    """What a `Placed` unpickles as: the function, after the modules are in their places."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for entry in reversed(place.sys_path):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    if os.path.isdir(place.working_dir) and current_folder() != place.working_dir:
        os.chdir(place.working_dir)
    _finder.take(place.modules)
    return pickle.loads(pickled)
