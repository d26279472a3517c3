"""What a cell is made of, part by part, and what differs between two of them."""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from nbray.common.software import own_software

from ..cell.analysis import names_reached
from . import modules
from .hashing import Handle, Hasher, UnhashableError
from .imports import said_by
from .modules import SourceFile

FORMAT = 2
"""Another number makes all that was kept before unknown."""


@dataclass(frozen=True)
class Part:
    """One thing that an answer depends on.

    Attributes:
        kind: ``code``, ``input``, ``function``, ``module``, ``package``, ...
        name: of the thing.
        digest: of its content.
        says: what it is, for a person.
    """

    kind: str
    name: str
    digest: str
    says: str = ""

    @property
    def title(self) -> str:
        """As a person calls it."""
        return f"{self.kind} {self.name}" if self.name else f"the {self.kind}"


@dataclass(frozen=True)
class Key:
    """All parts of a cell; the cell's answer is known by their digest."""

    parts: tuple[Part, ...]

    @property
    def digest(self) -> str:
        """Of all parts, whatever their order."""
        lines = sorted(json.dumps([p.kind, p.name, p.digest]) for p in self.parts)
        return hashlib.sha256("\n".join([str(FORMAT), *lines]).encode()).hexdigest()

    def likeness(self, other: Key) -> float:
        """The share of parts that two keys have in common."""
        mine = {(p.kind, p.name, p.digest) for p in self.parts}
        others = {(p.kind, p.name, p.digest) for p in other.parts}
        return len(mine & others) / max(1, len(mine | others))

    def changes(self, before: Key) -> list[str]:
        """What is other than it was ``before``, a line for each part."""
        old = {(p.kind, p.name): p for p in before.parts}
        new = {(p.kind, p.name): p for p in self.parts}
        told = []
        for place in sorted(old.keys() | new.keys()):
            was, now = old.get(place), new.get(place)
            if was is None and now is not None:
                told.append(f"{now.title} is new" + (f" ({now.says})" if now.says else ""))
            elif now is None and was is not None:
                told.append(f"{was.title} is not needed any more")
            elif was is not None and now is not None and was.digest != now.digest:
                what = f" ({was.says} -> {now.says})" if was.says != now.says else ""
                told.append(f"{now.title} has changed{what}")
        return told


@dataclass(frozen=True)
class Facts:
    """What a cell is, beside the values that it reads.

    Attributes:
        tree: its statements.
        needs: the names that it needs.
        options: of the line, and whatever else may change the answer.
        environment: what it runs in.
        setups: the set-up cells of its workers: name and what stands for each.
    """

    tree: ast.Module
    needs: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    setups: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Made:
    """A key, and what is to be said of the cell.

    Attributes:
        key: it.
        hints: words of its code that make an answer depend on what no key has.
        names: the names of the notebook that it reads, directly or by its functions.
        modules: the modules that it needs.
        steps: names by which it may reach modules of packages.
        sources: of the own ones among them, and those that these import.
    """

    key: Key
    hints: tuple[str, ...]
    names: tuple[str, ...]
    modules: frozenset[str]
    steps: frozenset[str]
    sources: Mapping[str, SourceFile]


def key_of(
    facts: Facts,
    namespace: Mapping[str, Any],
    handle: Handle = lambda _value: None,
    skip: Callable[[str, Any], bool] = lambda _name, _value: False,
) -> Made:
    """The key of a cell.

    Args:
        facts: the cell.
        namespace: the notebook's names.
        handle: see `Hasher`.
        skip: names that no cell is sent.

    Raises:
        UnhashableError: something that the cell reads has no stable digest.
        modules.UnknownModuleError: nobody can tell what a module is.
    """
    hasher = Hasher(namespace, handle)
    said = said_by(facts.tree)
    hasher.modules.update(said.modules)
    hasher.steps.update(said.steps)
    parts = [
        Part("code", "", _sha(ast.dump(facts.tree))),
        Part("Python", "", _sha(python := _python()), python),
        _of_words(hasher, "line", facts.options),
        _of_words(hasher, "environment", facts.environment),
        *(Part("set-up cell", name, digest) for name, digest in facts.setups),
    ]
    waiting = names_reached(facts.needs, namespace)
    done: set[str] = set()
    while waiting:
        for name in sorted(waiting):
            if name.startswith("__") or skip(name, namespace[name]):
                continue
            value = namespace[name]
            parts.append(Part(_kind(value), name, hasher.digest(name, value), _says(value)))
        done |= waiting
        waiting = names_reached(hasher.reads, namespace) - done
    sources, versions = modules.facts_of(hasher.modules, hasher.steps)
    versions = {**versions, "nbray": _nbray()}
    parts += [Part("module", name, source.digest) for name, source in sources.items()]
    parts += [Part("package", name, version, version) for name, version in versions.items()]
    return Made(
        Key(tuple(parts)), hints_of(facts.tree, hasher.words), tuple(sorted(done)),
        frozenset(hasher.modules), frozenset(hasher.steps), sources,
    )  # fmt: skip


def _of_words(hasher: Hasher, kind: str, words: Mapping[str, Any]) -> Part:
    said = [
        f"{name}={value}"
        for name, value in words.items()
        if not (isinstance(value, bool) or value in (None, "", ".", {}))
    ]
    return Part(kind, "", hasher.digest(f"the {kind}", dict(words)), ", ".join(said))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()} {sys.platform} " + (
        platform.machine()
    )


def _nbray() -> str:
    """Two builds of one version have other messages, and may run a cell in another way."""
    own = own_software()
    return f"{own.version}+{own.messages.hex()}"


def _kind(value: Any) -> str:
    if isinstance(value, FunctionType | type):
        return "function" if isinstance(value, FunctionType) else "class"
    return "import" if isinstance(value, ModuleType) else "input"


def _says(value: Any) -> str:
    words = [type(value).__name__]
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        words.append(str(shape))
    elif isinstance(value, list | tuple | dict | set | frozenset | str | bytes):
        words.append(f"of {len(value)}")
    return " ".join(words)


_RANDOM = frozenset(
    ["random", "rand", "randn", "randint", "shuffle", "default_rng", "uuid4", "urandom", "secrets"]
)
_TIME = frozenset(["now", "today", "utcnow", "perf_counter", "monotonic", "time_ns", "time"])
_FILES = frozenset(
    [
        "open",
        "Path",
        "glob",
        "listdir",
        "loadtxt",
        "imread",
        "urlopen",
        "connect",
        "memmap",
        "system",
        "getoutput",
        "check_output",
        "check_call",
        "Popen",
        "run_path",
        "run_line_magic",
        "run_cell_magic",
    ]
)
_ENVIRONMENT = frozenset(["environ", "getenv", "environb"])
_NAMES = frozenset(["exec", "globals", "locals"])
_HINTS = (
    ("random numbers", _RANDOM), ("the time", _TIME),
    ("files or addresses, whose content does not count", _FILES),
    ("variables of the environment, which do not count", _ENVIRONMENT),
    ("names in texts, which do not count", _NAMES),
)  # fmt: skip


def hints_of(tree: ast.AST, words: Iterable[str]) -> tuple[str, ...]:
    """What a cell seems to use that no key can have, as ``random numbers (randint)``."""
    found = {*words}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    found |= {"open" for word in found if word.startswith("read_") and len(word) > len("read_")}
    return tuple(
        f"{what} ({', '.join(sorted(found & known))})" for what, known in _HINTS if found & known
    )


__all__ = ["Facts", "Key", "Made", "Part", "UnhashableError", "hints_of", "key_of"]
