"""What the modules that a cell needs are: sources of the person's own, versions of all others.

An own module counts by its source and by those of the own modules that it imports, as its text
says (`imports`), or that are reached as attributes of an own package; where one is imported by a
name that is made while the code runs, all that can be imported count. A module of a package counts
by the versions of the package and of what that requires, with the list of their files, which is
another one after another build of that version. Python's own count with Python.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, all_suffixes
from pathlib import Path

from nbray.common.folders import current_folder

from ..cell.places import is_ours, is_users
from .imports import ANY, ANY_BELOW, ANY_LOADED, said_by_source

_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_LOCAL = ("__main__", "builtins")
_SUFFIXES = tuple(sorted(all_suffixes(), key=len, reverse=True))
_MOST_ENTRIES = 20_000


class UnknownModuleError(ValueError):
    """Nothing says what a module is: neither a source of one's own, nor a version."""


@dataclass(frozen=True)
class SourceFile:
    """An own module: its file, whether it is a package, and the digest of its content."""

    path: str
    is_package: bool
    digest: str


def facts_of(
    names: Iterable[str], steps: Collection[str] = ()
) -> tuple[dict[str, SourceFile], dict[str, str]]:
    """The own modules, and the versions of packages, that these modules need.

    Args:
        names: dotted names of modules, or of what is in one; `imports.ANY` and its kin.
        steps: names by which modules of packages may be reached.

    Raises:
        UnknownModuleError: of one nothing is known.
    """
    search = _Search(names, steps)
    search.run()
    return search.sources, _versions(search.packages)


class _Search:
    """From the modules that are named to all that are needed with them."""

    def __init__(self, names: Iterable[str], steps: Collection[str]) -> None:
        self.sources: dict[str, SourceFile] = {}
        self.packages: set[str] = set()
        self._asked = set(names)
        self._waiting = sorted(self._asked)
        self._done: set[str] = set()
        self._guessed: set[str] = set()
        self._steps = set(steps)
        self._own: dict[str, list[str]] = {}

    def run(self) -> None:
        while self._waiting:
            while self._waiting:
                name = self._waiting.pop()
                if name and name not in self._done:
                    self._done.add(name)
                    self._take(name)
            self._waiting = [name for name in self._below() if name not in self._done]

    def _below(self) -> Iterator[str]:
        """Modules of own packages that may be reached as their attributes."""
        for package, folders in self._own.items():
            for part, _ in _parts_of(folders):
                if ANY_BELOW in self._done or part in self._steps:
                    yield f"{package}.{part}"

    def _take(self, name: str) -> None:
        top = name.partition(".")[0]
        if name == ANY:
            self._guessed.update(found := _importable())
            self._waiting += found
        elif name == ANY_LOADED:
            self._waiting += _loaded_locals()
        elif name != ANY_BELOW and top not in _NOT_LOCAL:
            spec = _spec(name)
            if spec is not None:
                self._found(name, spec)
            elif "." in name:  # an attribute of a module
                self._waiting.append(name.rpartition(".")[0])
            elif not (
                (name in self._guessed and name not in self._asked)
                or top in sys.stdlib_module_names
                or top.startswith("_cython_")  # the type of functions of compiled packages
            ):
                raise UnknownModuleError(f"the module {name!r} is not found here")

    def _found(self, name: str, spec: ModuleSpec) -> None:
        top, origin = name.partition(".")[0], spec.origin
        if origin is None or origin == "namespace":
            folders = list(spec.submodule_search_locations or ())
            if any(is_users(os.path.join(folder, "")) for folder in folders):
                self._own[name] = folders
        elif origin in ("built-in", "frozen"):
            return
        elif is_ours(origin):
            self.packages.add("nbray")
        elif is_users(origin):
            data = Path(origin).read_bytes()
            is_package = spec.submodule_search_locations is not None
            self.sources[name] = SourceFile(origin, is_package, hashlib.sha256(data).hexdigest())
            said = said_by_source(data, name, is_package)
            self._waiting += said.modules
            self._steps |= said.steps
            if name in self._guessed and name not in self._asked:
                self._guessed |= said.modules  # what it imports may not be here
            if is_package:
                self._own[name] = list(spec.submodule_search_locations or ())
            if "." in name:
                self._waiting.append(name.rpartition(".")[0])
        elif top not in sys.stdlib_module_names:
            self.packages.update(_packages_of(top, origin))


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; imports nothing."""
    if name in sys.modules:
        known = getattr(sys.modules[name], "__spec__", None)
        if isinstance(known, ModuleSpec):
            return known
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    steps = name.split(".")
    for number in range(1, len(steps) + 1):
        part = ".".join(steps[:number])
        if number == 1:
            try:
                spec = importlib.util.find_spec(part)
            except (ImportError, ValueError):  # of what was made by hand
                spec = None
        else:
            spec = _below_package(part, path or [])
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _below_package(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """Where a module is in a package that is there."""
    try:
        return PathFinder.find_spec(name, path)
    except KeyError:  # a namespace, which asks the package that it is in: that is not loaded
        last = name.rpartition(".")[2]
        spec = ModuleSpec(name, None, is_package=True)
        places = [at for folder in path if os.path.isdir(at := os.path.join(folder, last))]
        spec.submodule_search_locations = places
        return spec


def _parts_of(folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What may be a module in these folders, and the folder that it is, if it is one."""
    for folder in folders:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # an archive, or one that has gone
            continue
        for entry in entries:
            if entry.name.isidentifier() and entry.name != "__pycache__" and entry.is_dir():
                yield entry.name, entry.path
            for suffix in _SUFFIXES:
                part = entry.name.removesuffix(suffix)
                if part != entry.name and part.isidentifier():
                    yield part, ""
                    break


def _importable() -> list[str]:
    """All own modules that can be imported here.

    Raises:
        UnknownModuleError: there are too many.
    """
    found: list[str] = []
    places = {os.path.abspath(entry or current_folder()) for entry in sys.path}
    inside = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    waiting = [
        ("", place)
        for place in sorted(places)
        if is_users(os.path.join(place, "")) and not place.startswith(inside)
    ]
    while waiting:
        above, folder = waiting.pop()
        for part, below in _parts_of([folder]):
            found.append(above + part)
            if below and not below.startswith(inside) and is_users(os.path.join(below, "")):
                waiting.append((f"{above}{part}.", below))
            if len(found) > _MOST_ENTRIES:
                raise UnknownModuleError(
                    "a module is imported by a name that is made while the code runs, and there"
                    f" are more than {_MOST_ENTRIES:,} files and folders that it may be"
                )
    return found


def _loaded_locals() -> frozenset[str]:
    """All own modules that this process has loaded."""
    found = set()
    for name, module in list(sys.modules.items()):
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        if isinstance(origin, str) and origin.endswith(".py") and is_users(origin):
            found.add(name)
    return frozenset(found)


def _packages_of(top: str, origin: str) -> list[str]:
    found = _distributions().get(top)
    if not found:
        _distributions.cache_clear()  # it may have been installed meanwhile
        found = _distributions().get(top)
    if not found:
        raise UnknownModuleError(f"the module {top!r} ({origin}) belongs to no installed package")
    return found


@functools.lru_cache(maxsize=1)
def _distributions() -> dict[str, list[str]]:
    return {top: list(names) for top, names in importlib.metadata.packages_distributions().items()}


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """What packages and those that they require are, as far as they are installed."""
    versions: dict[str, str] = {}
    waiting = list(packages)
    done: set[str] = set()
    while waiting:
        name = waiting.pop()
        plain = re.sub(r"[-_.]+", "-", name).lower()
        if plain in done:
            continue
        done.add(plain)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # an extra that is not here
            continue
        files = found.read_text("RECORD")
        build = f", files {hashlib.sha256(files.encode()).hexdigest()[:12]}" if files else ""
        versions[plain] = found.version + build
        waiting += _requirements(name, versions[plain])
    return versions


@functools.lru_cache(maxsize=1024)
def _requirements(name: str, _version: str) -> tuple[str, ...]:
    found = importlib.metadata.requires(name) or ()
    names = [_REQUIRED.match(text) for text in found if "extra ==" not in text]
    return tuple(match[0] for match in names if match)
