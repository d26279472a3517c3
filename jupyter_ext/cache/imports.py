"""What code says that it imports: a cell and sources as their syntax, functions as their bytecode.

A package gives its modules as attributes once anybody has imported them (``import pack.part`` in
one cell, ``pack.part.f()`` in another one), so beside the imports go the *steps*: names of
attributes and texts that may name one, by which a module of a needed package may be reached. Where
a name is made while the code runs, `ANY` or `ANY_BELOW` stands for what it may be.
"""

from __future__ import annotations

import ast
import dis
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

ANY = "*"
"""Any own module that can be imported."""
ANY_BELOW = ".*"
"""Any module of the own packages that are needed."""
ANY_LOADED = "(loaded)"
"""Any own module that this process has loaded."""
_IMPORTERS = frozenset({"import_module", "__import__"})
_EVALUATE = frozenset({"exec", "eval"})
_LONGEST = 200


@dataclass(frozen=True)
class Said:
    """Modules, or what may be one, and steps to modules of packages."""

    modules: frozenset[str]
    steps: frozenset[str]


def said_by(tree: ast.AST, package: str = "") -> Said:
    """What a cell says, or a source of a module of ``package``."""
    return Said(frozenset(_imported(tree, package)), frozenset(_steps(tree)))


@functools.lru_cache(maxsize=1024)
def said_by_source(source: bytes, name: str, is_package: bool) -> Said:
    """What the file of a module says."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # compiled code, or another language
        return Said(frozenset({ANY_LOADED}), frozenset())
    return said_by(tree, name if is_package else name.rpartition(".")[0])


@functools.lru_cache(maxsize=4096)
def said_by_code(code: CodeType) -> Said:
    """What bytecode says; what is imported of a module may be one, too."""
    found: set[str] = set()
    module = ""
    for instruction in dis.get_instructions(code):
        word = instruction.argval
        if instruction.opname == "IMPORT_NAME":
            module = str(word)
            found.add(module)
        elif instruction.opname == "IMPORT_FROM" and module:
            found.add(f"{module}.{word}")
        elif instruction.opname.startswith("LOAD_") and isinstance(word, str):
            if word in _IMPORTERS:
                found.add(ANY)
            elif word in _EVALUATE:
                found.add(ANY_LOADED)
            elif word == "getattr":
                found.add(ANY_BELOW)
        if instruction.opname == "IMPORT_FROM" and word in _IMPORTERS:
            found.add(ANY)
    texts = (text for text in code.co_consts if isinstance(text, str) and text.isidentifier())
    return Said(frozenset(found), frozenset((*code.co_names, *texts)))


def _steps(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            steps = node.value[:_LONGEST].split(".")
            yield from (step for step in steps if step.isidentifier())


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    told: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            yield from _of_from(node, package)
        elif isinstance(node, ast.Call):
            word = _word(node.func)
            if word in _IMPORTERS:
                if (name := _constant(node, package)) is not None:
                    told.add(id(node.func))
                    yield name
            elif word == "getattr" and not _names_its_attribute(node):
                yield ANY_BELOW
        elif isinstance(node, ast.Name | ast.Attribute):
            word = _word(node)
            if word in _IMPORTERS and id(node) not in told:
                yield ANY
            elif word in _EVALUATE:
                yield ANY_LOADED


def _of_from(node: ast.ImportFrom, package: str) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        above = _above(package, node.level)
        base = f"{above}.{base}".strip(".")
    if base:
        yield base
    for alias in node.names:
        if alias.name != "*":
            yield f"{base}.{alias.name}"
        if alias.name in _IMPORTERS and alias.asname:
            yield ANY


def _above(package: str, level: int) -> str:
    steps = package.split(".")
    return ".".join(steps[: len(steps) - level + 1])


def _word(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _constant(call: ast.Call, package: str) -> str | None:
    """The module that a call imports, if it stands there."""
    first = call.args[0] if call.args else None
    if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
        return None
    name = first.value
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        # What ``__import__`` is told beside the name may be modules, too.
        alone = len(call.args) + len(call.keywords) == 1
        return name if alone or _word(call.func) == "import_module" else None
    anchor = call.args[1] if len(call.args) > 1 else None
    if not package or _word(anchor or call) not in ("__package__", "__name__"):
        return None
    if _word(anchor or call) == "__name__" and dots > 1:
        return None  # of a module that is not a package, that is another place
    return f"{_above(package, dots)}.{name[dots:]}".strip(".")


def _names_its_attribute(call: ast.Call) -> bool:
    return len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
