"""What the modules that a cell needs are: sources of the person's own, versions of all others.

An own module counts by its source and by those of the own modules that it imports, as its text
says; where it imports by a name that is made while it runs, all own modules that are loaded count.
A module of a package counts by the versions of the package and of what that requires. Python's own
count with Python.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from ..cell.places import is_ours, is_users

_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DYNAMIC = frozenset({"import_module", "__import__", "exec", "eval"})
_NOT_LOCAL = ("__main__", "builtins")


class UnknownModuleError(ValueError):
    """Nothing says what a module is: neither a source of one's own, nor a version."""


@dataclass(frozen=True)
class SourceFile:
    """An own module: its file, whether it is a package, and the digest of its content."""

    path: str
    is_package: bool
    digest: str


def facts_of(names: Iterable[str]) -> tuple[dict[str, SourceFile], dict[str, str]]:
    """The own modules, and the versions of packages, that these modules need.

    Args:
        names: dotted names of modules, or of what is in one.

    Raises:
        UnknownModuleError: of one nothing is known.
    """
    sources: dict[str, SourceFile] = {}
    packages: set[str] = set()
    waiting, done = sorted(set(names)), set[str]()
    while waiting:
        name = waiting.pop()
        if not name or name in done:
            continue
        done.add(name)
        top = name.partition(".")[0]
        if top in _NOT_LOCAL:
            continue
        spec = _spec(name)
        if spec is None:
            if "." in name:  # an attribute of a module
                waiting.append(name.rpartition(".")[0])
                continue
            if top in sys.stdlib_module_names:
                continue
            raise UnknownModuleError(f"the module {name!r} is not found here")
        origin = spec.origin
        if origin is None or origin in ("built-in", "frozen", "namespace"):
            continue
        if is_ours(origin):
            packages.add("nbray")
        elif is_users(origin):
            data = Path(origin).read_bytes()
            is_package = spec.submodule_search_locations is not None
            sources[name] = SourceFile(origin, is_package, hashlib.sha256(data).hexdigest())
            waiting += _imports(data, name, is_package)
            if "." in name:
                waiting.append(name.rpartition(".")[0])
        elif top not in sys.stdlib_module_names:
            packages.update(_packages_of(top, origin))
    return sources, _versions(packages)


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
            spec = PathFinder.find_spec(part, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


@functools.lru_cache(maxsize=1024)
def _imports(source: bytes, name: str, is_package: bool) -> frozenset[str]:
    """The modules that a source imports, and what it imports of them, which may be some, too."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # compiled code, or another language
        return _loaded_locals()
    return frozenset(_imported(tree, name if is_package else name.rpartition(".")[0]))


def imports_of(tree: ast.AST) -> frozenset[str]:
    """The modules that a cell imports, wherever its statements stand."""
    return frozenset(_imported(tree, ""))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                steps = package.split(".")
                above = ".".join(steps[: len(steps) - node.level + 1])
                base = f"{above}.{base}".strip(".")
            if base:
                yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Name | ast.Attribute):
            word = node.id if isinstance(node, ast.Name) else node.attr
            if word in _DYNAMIC:
                yield from _loaded_locals()


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
    """The versions of packages and of those that they require, as far as they are installed."""
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
            versions[plain] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # an extra that is not here
            continue
        waiting += _requirements(name, versions[plain])
    return versions


@functools.lru_cache(maxsize=1024)
def _requirements(name: str, _version: str) -> tuple[str, ...]:
    found = importlib.metadata.requires(name) or ()
    names = [_REQUIRED.match(text) for text in found if "extra ==" not in text]
    return tuple(match[0] for match in names if match)
