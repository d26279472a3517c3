"""The public names of nbray, their docstrings and their examples.

The reference has a page for each module of `PAGES`; `tests/docs` holds that every name of theirs
is told of, and runs every example. The long list of exceptions has its examples in a page of their
own, `docs/examples/MODULE.md`, with the name of each as its heading.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).parent.parent
PAGES = {
    "nbray": "The core API",
    "nbray.exceptions": "Exceptions",
    "nbray.actor": "Actors",
    "nbray.runtime_context": "Where code runs",
    "nbray.runtime_env": "Runtime environments",
    "nbray.job_config": "The settings of a job",
    "nbray.util.scheduling_strategies": "Scheduling strategies",
    "nbray.util.placement_group": "Placement groups",
    "nbray.util.accelerators": "Kinds of accelerators",
    "nbray.util.state": "The state API",
    "nbray.util.metrics": "Metrics",
    "nbray.util.queue": "Queues",
    "nbray.util.executor": "An executor",
    "nbray.util.multiprocessing": "A pool of processes",
    "nbray.util.joblib": "joblib",
    "nbray.util.debug": "Logging once",
    "nbray.util.annotations": "Marks of stability",
    "nbray.util.client": "Ray's client",
    "nbray.util": "Further helpers",
    "nbray.dag": "Graphs of calls",
    "nbray.autoscaler.sdk": "Asking the autoscaler for room",
    "nbray.cluster_utils": "Clusters for tests",
    "nbray.testing": "Tools for tests",
    "nbray.cloudpickle": "Pickling",
    "nbray.experimental": "Where objects are",
    "nbray.experimental.internal_kv": "The key-value space",
    "nbray.experimental.tqdm_ray": "Progress bars",
    "nbray.compat": "Ray's name",
}
"""Titles of the reference's pages, by module."""

_SECTION = re.compile(r"^(Attributes|Args|Returns|Yields|Raises|Examples):$", re.MULTILINE)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Name:
    """One public name."""

    module: str
    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def doc(self) -> str:
        """Its docstring; empty for constants."""
        return inspect.getdoc(self.value) or "" if callable(self.value) else ""

    @property
    def example(self) -> str:
        """Its example: the section of its docstring, or what the page of examples has."""
        found = sections(self.doc).get("Examples")
        if found is None and callable(self.value):
            found = _examples_of(self.module).get(self.value.__name__)
        return found or ""


def names_of(module: str) -> list[Name]:
    """What a module offers that is nbray's: its ``__all__``, or else what it defines itself."""
    found = import_module(module)
    offered = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and (_is_defined_in(value, module) or isinstance(value, str))
    ]
    names = []
    for name in offered:
        value = getattr(found, name)
        if isinstance(value, ModuleType) and callable(value):
            value = getattr(value, name)  # as `nbray.util.placement_group`, which is both
        if not isinstance(value, ModuleType) and _is_ours(value):
            names.append(Name(module, name, value))
    return names


def told_by(module: str) -> list[Name]:
    """The names of a module that its page is the first to tell of."""
    before: set[int] = set()
    for page in PAGES:
        names = [one for one in names_of(page) if id(one.value) not in before]
        if page == module:
            return names
        before.update(id(one.value) for one in names)
    raise KeyError(module)


def _is_defined_in(value: Any, module: str) -> bool:
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module


def _is_ours(value: Any) -> bool:
    made_in = str(getattr(value, "__module__", None) or "nbray") if callable(value) else "nbray"
    return made_in.partition(".")[0] == "nbray"


def public_names() -> Iterator[Name]:
    """All names of all pages."""
    for module in PAGES:
        yield from names_of(module)


def methods_of(cls: type) -> Iterator[tuple[str, Any]]:
    """The methods that a class, or a base of it in nbray, offers."""
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] != "nbray":
            continue
        for name, value in vars(base).items():
            function = getattr(value, "__func__", value)
            if not name.startswith("_") and inspect.isfunction(function):
                yield name, function


def sections(doc: str) -> dict[str, str]:
    """The sections of a docstring by their names, unindented; what comes before them by ""."""
    parts = _SECTION.split(doc)
    found = {"": parts[0]}
    for head, text in zip(parts[1::2], parts[2::2], strict=True):
        found[head] = textwrap.dedent(text.strip("\n"))
    return found


def fences(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page or docstring: language, and code without its indentation."""
    return [(m[2], textwrap.dedent(m[3])) for m in _FENCE.finditer(text)]


@cache
def _examples_of(module: str) -> dict[str, str]:
    page = DOCS / "examples" / f"{module}.md"
    if not page.exists():
        return {}
    parts = re.split(r"^## (\w+)\n", page.read_text(), flags=re.MULTILINE)
    found = zip(parts[1::2], parts[2::2], strict=True)
    return {name: _without_fence(text.strip()) for name, text in found}


def _without_fence(text: str) -> str:
    """An interactive example as a docstring has it; programs keep their fences."""
    blocks = fences(text)
    return blocks[0][1] if [language for language, _ in blocks] == ["pycon"] else text


def raises(function: Any) -> bool:
    """Whether a function has a ``raise`` of its own."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, SyntaxError, TypeError):  # it has no source here
        return False
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))
