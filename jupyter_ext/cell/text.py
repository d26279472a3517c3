"""The text of a remote cell: what Python it is, what it reads, and what cannot run in a worker.

Magics and ``!commands`` are translated as IPython does it and run in the worker, in an IPython
of its own. What code stands in them is looked into here, so that ``%time x = f(y)`` reads and
assigns like ``x = f(y)``. Those that only make sense in the notebook are refused before anything
runs, and so is asking the keyboard.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..messages import NO_KEYBOARD
from .analysis import CellNames, analyse

_NOTEBOOK_ONLY = frozenset(
    {
        "autoreload", "autosave", "bookmark", "colors", "config", "connect_info", "debug",
        "dhist", "edit", "gui", "history", "load_ext", "logstart", "logstop", "macro",
        "nbray", "notebook", "pdb", "pinfo", "pinfo2", "pylab", "qtconsole", "recall",
        "reload_ext", "remote", "rerun", "save", "store", "unload_ext",
    }
)  # fmt: skip
_PYTHON_IN_LINE = frozenset({"time", "timeit", "prun", "memit", "lprun"})
_PYTHON_IN_BODY = frozenset({"time", "timeit", "prun", "memit", "capture"})
_OPTIONS = re.compile(r"\s*(-\w+\s*(\d+\s+)?)*")
_INTERPOLATED = re.compile(r"\{([^{}]+)\}|\$([A-Za-z_]\w*)")


class NotRemoteError(ValueError):
    """Something in the cell cannot run in a worker."""


@dataclass(frozen=True)
class CellText:
    """A cell, read.

    Attributes:
        source: as the person wrote it; the first line holds the magic.
        code: the Python to run; its lines have the same numbers.
        names: what it reads and assigns.
        show: whether the value of a last expression is displayed.
    """

    source: str
    code: str
    names: CellNames
    show: bool


def read_cell(
    source: str,
    filename: str,
    namespace: Mapping[str, Any],
    transform: Callable[[str], str] = lambda text: text,
) -> CellText:
    """Read a cell.

    Args:
        source: its text; the first line is not run.
        filename: what tracebacks call it.
        namespace: the names of the notebook.
        transform: IPython's translation of magics into Python.

    Raises:
        SyntaxError: it is not Python.
        NotRemoteError: it holds something that cannot run in a worker.
    """
    body = source.partition("\n")[2]
    leading = len(body) - len(body.lstrip("\n"))
    code = "\n" * (1 + leading) + transform(body[leading:]).rstrip("\n") + "\n"
    tree = ast.parse(code, filename)
    _compile(tree, filename)
    if "get_ipython()" in code:
        tree = ast.fix_missing_locations(_Magics().visit(tree))
    names = analyse(tree)
    if "input" in names.needs and "input" not in namespace:
        _refuse_input(tree)
    return CellText(source, code, names, not body.rstrip().endswith(";"))


def _compile(tree: ast.Module, filename: str) -> None:
    """Find what the parser lets pass, as a return outside of a function, before it is sent."""
    with warnings.catch_warnings():  # the worker gives them
        warnings.simplefilter("ignore")
        compile(tree, filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def _refuse_input(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "input"
        ):
            raise NotRemoteError(f"line {node.lineno}: input(): {NO_KEYBOARD}")


class _Magics(ast.NodeTransformer):
    """Puts the code that stands in magics in their places, to be analysed and not to be run."""

    def visit_Expr(self, node: ast.Expr) -> Any:
        """A magic alone on its line may hold statements."""
        if isinstance(node.value, ast.Call) and (found := _magic(node.value)) is not None:
            return self._statements(node.value, *found)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A magic whose value is used."""
        found = _magic(node)
        if found is None:
            return self.generic_visit(node)
        values = [s.value for s in self._statements(node, *found) if isinstance(s, ast.Expr)]
        return ast.copy_location(ast.Tuple(values, ast.Load()), node)

    def _statements(self, node: ast.Call, kind: str, texts: list[str]) -> list[ast.stmt]:
        line = node.lineno
        if kind in ("system", "getoutput"):
            return _reads_of_command(texts[0], node)
        name = texts[0]
        if name in _NOTEBOOK_ONLY:
            sign = "%%" if kind == "run_cell_magic" else "%"
            raise NotRemoteError(
                f"line {line}: {sign}{name} belongs to the notebook, a worker cannot do it. Put "
                "it into a cell of its own."
            )
        pieces = []
        if kind == "run_cell_magic":
            if name in _PYTHON_IN_BODY:
                pieces = [texts[2]] if name == "capture" else [_bare(texts[1]), texts[2]]
                if name == "capture" and (target := _bare(texts[1]).strip()).isidentifier():
                    pieces.append(f"{target} = None")
        elif name in _PYTHON_IN_LINE:
            pieces = [_bare(texts[1])]
        else:
            return _reads_of_command(texts[1], node)
        statements: list[ast.stmt] = []
        for piece in pieces:
            statements += ast.parse(piece, "<magic>").body
        for statement in statements:
            for inner in ast.walk(statement):
                if hasattr(inner, "lineno"):
                    ast.copy_location(inner, node)
        return statements or [ast.copy_location(ast.Pass(), node)]


def _magic(node: ast.Call) -> tuple[str, list[str]] | None:
    """Which method of ``get_ipython()`` is called with which texts."""
    function = node.func
    if (
        isinstance(function, ast.Attribute)
        and function.attr in ("run_line_magic", "run_cell_magic", "system", "getoutput")
        and isinstance(function.value, ast.Call)
        and isinstance(function.value.func, ast.Name)
        and function.value.func.id == "get_ipython"
        and all(isinstance(argument, ast.Constant) for argument in node.args)
    ):
        return function.attr, [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
    return None


def _bare(line: str) -> str:
    """A magic's line without its options."""
    found = _OPTIONS.match(line)
    return line[found.end() :] if found else line


def _reads_of_command(command: str, node: ast.Call) -> list[ast.stmt]:
    """``{expression}`` and ``$name`` in a command, as expressions."""
    statements: list[ast.stmt] = []
    for expression, name in _INTERPOLATED.findall(command):
        try:
            value = ast.parse(expression or name, mode="eval").body
        except SyntaxError:  # braces of the shell
            continue
        statements.append(ast.copy_location(ast.Expr(value), node))
    return statements or [ast.copy_location(ast.Pass(), node)]
