"""The worker's side of a remote cell.

`run_cell` runs the text in a fresh namespace and returns a `Summary` and one value for each name
that is wanted, so that each has a ref of its own. Functions of the notebook which the cell calls
see the cell's namespace as their globals, as they would if the cell ran in the kernel.
`run_in_actor` does the same in a namespace that an actor keeps.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import builtins
import copy
import importlib
import importlib.util
import inspect
import io
import linecache
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import nbray
from nbray.jupyter_ext import worker_display
from nbray.jupyter_ext.parcel import LARGE_BYTES, Parcel, unpack
from nbray.jupyter_ext.remote_run import Summary
from nbray.jupyter_ext.remote_value import Unpicklable, Unset, at_home
from nbray.util.serializability import trial_pickle

LAST = "__nbray_last__"
"""The name of the value of a cell's last expression, among those that are wanted."""
NO_KEYBOARD = (
    "a worker has no keyboard to ask at. Ask in the notebook (answer = input()) and use the "
    "answer here."
)
_ATOMS = (int, float, complex, str, bytes, bool, type(None), FunctionType, type, ModuleType)


@dataclass(frozen=True)
class Cell:
    """What a worker is told about a cell.

    Attributes:
        source: the text as the person wrote it.
        code: the Python to run, with the same line numbers.
        filename: what tracebacks call it.
        modules: name in the cell -> module to import.
        passed: the names whose values follow as arguments.
        parcel: everything else that the cell reads.
        watched: the names of small values that may change in place, which is told.
        thaws: the names whose values would be read-only here, but the cell changes them.
        assigns: the names whose values are wanted.
        show: whether the value of the last expression is displayed.
    """

    source: str
    code: str
    filename: str
    modules: dict[str, str]
    passed: tuple[str, ...]
    parcel: Parcel
    watched: tuple[str, ...]
    thaws: frozenset[str]
    assigns: tuple[str, ...]
    show: bool


@dataclass(frozen=True)
class SetupCell:
    """A cell that every worker runs once: its key, and the cell with its arguments."""

    key: str
    cell: Cell
    arguments: tuple[nbray.ObjectRef, ...]


_setups_done: dict[str, dict[str, Any]] = {}
_actor_namespaces: dict[str, tuple[dict[str, Any], set[str]]] = {}


def run_cell(cell: Cell, setups: Sequence[tuple[str, nbray.ObjectRef]], *arguments: Any) -> Any:
    """Run a cell; returns its summary, or a tuple of that and the wanted values.

    Raises:
        BaseException: what the cell raised.
    """
    names = run_setups(setups)
    namespace = _opened(cell, arguments)
    for name, value in names.items():
        namespace.setdefault(name, value)
    return _run(cell, namespace)


def run_in_actor(
    actor: Any,
    key: str,
    cell: Cell,
    setups: Sequence[tuple[str, nbray.ObjectRef]],
    *arguments: Any,
) -> Any:
    """Run a cell in the namespace that this actor keeps under ``key``.

    Names that its own cells assigned win over those that the notebook sends; ``self`` is the
    actor's instance.
    """
    names = run_setups(setups)
    namespace, own = _actor_namespaces.setdefault(key, ({"__name__": "__main__"}, set()))
    namespace.setdefault("self", actor)
    for name, value in {**names, **_opened(cell, arguments)}.items():
        if name not in own and name != "__builtins__":
            namespace[name] = at_home(value, namespace)
    before = {name: id(value) for name, value in namespace.copy().items()}
    try:
        return _run(cell, namespace)
    finally:
        own.update(
            name for name, value in namespace.copy().items() if before.get(name) != id(value)
        )


def run_setups(setups: Sequence[tuple[str, nbray.ObjectRef]]) -> dict[str, Any]:
    """Run the set-up cells that this worker has not run yet; returns the names of all of them."""
    names: dict[str, Any] = {}
    for key, ref in setups:
        if key not in _setups_done:
            setup: SetupCell = nbray.get(ref)
            namespace = _opened(setup.cell, nbray.get(list(setup.arguments)))
            _run(setup.cell, namespace)
            _setups_done[key] = {
                name: namespace[name] for name in setup.cell.assigns if name in namespace
            }
        names.update(_setups_done[key])
    return names


def _opened(cell: Cell, arguments: Sequence[Any]) -> dict[str, Any]:
    """A namespace with everything that was sent."""
    passed = dict(zip(cell.passed, arguments, strict=False))
    (anchor, small), bulky = unpack(cell.parcel, arguments[len(passed) :], passed)
    namespace: dict[str, Any] = anchor.__globals__
    namespace["__name__"] = "__main__"
    namespace.update(bulky)
    namespace.update(passed)
    namespace.update(small)
    for name, value in namespace.copy().items():
        if isinstance(value, Unpicklable):
            raise value.error()
        if isinstance(value, Unset):
            del namespace[name]
    for name in cell.thaws & namespace.keys():
        namespace[name] = copy.deepcopy(namespace[name])
    for name, module in cell.modules.items():
        namespace[name] = importlib.import_module(module)
    return namespace


def _run(cell: Cell, namespace: dict[str, Any]) -> Any:
    remember(cell.filename, cell.source)
    builtins.input = _no_input
    plots = _Plots()
    marks = {name: mark for name in cell.watched if (mark := _mark(namespace.get(name)))}
    try:
        _execute(cell, namespace)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    displays = plots.collect()
    if LAST not in cell.assigns:
        last = namespace.pop(LAST, None)
        if last is not None and cell.show and not plots.has_shown(last):
            displays.append(_bundle(last))
    values = [_outgoing(name, namespace) for name in cell.assigns]
    types = {name: _kind(namespace[name]) for name in cell.assigns if name in namespace}
    changed = tuple(
        name
        for name, mark in marks.items()
        if name not in cell.assigns and _mark(namespace.get(name)) not in (mark, None)
    )
    namespace.pop(LAST, None)
    summary = Summary(displays, types, changed)
    return (summary, *values) if values else summary


def _execute(cell: Cell, namespace: dict[str, Any]) -> None:
    if "get_ipython()" in cell.code:
        from nbray.jupyter_ext.worker_shell import shell_for

        shell = shell_for(namespace)
        namespace["get_ipython"] = lambda: shell
    tree = ast.parse(cell.code, cell.filename)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = tree.body[-1]
        target = ast.copy_location(ast.Name(LAST, ast.Store()), last)
        tree.body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
    code = compile(tree, cell.filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)


def remember(filename: str, source: str) -> None:
    """Let tracebacks in this process show the lines of ``source``."""
    text = source if source.endswith("\n") else source + "\n"  # carets count on it
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


def _no_input(prompt: object = "", /) -> str:
    raise RuntimeError(f"input({str(prompt)!r}): {NO_KEYBOARD}")


def _mark(value: Any) -> bytes | None:
    """The pickle of a small value that can change in place, to see later whether it has."""
    if isinstance(value, _ATOMS):
        return None
    try:
        data = trial_pickle(value)
    except Exception:  # it came as a pickle, and is now something that cannot go
        return None
    return data if len(data) <= 2 * LARGE_BYTES else None


def _outgoing(name: str, namespace: Mapping[str, Any]) -> Any:
    """The value as it goes back, or what stands for it."""
    if name not in namespace:
        return None if name == LAST else Unset(name)
    value = namespace[name]
    try:
        trial_pickle(value, buffers=False)
    except Exception as error:  # a pickle runs the user's own __reduce__ and __getstate__
        return Unpicklable(name, type(value).__name__, str(error))
    return value


def _kind(value: Any) -> str:
    """What a value is, in a few words: ``ndarray (1000, 10) float64``."""
    words = [type(value).__name__]
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple):
        words.append(str(shape))
        if dtype is not None:
            words.append(str(dtype))
    elif isinstance(value, list | tuple | dict | set | str | bytes):
        words.append(f"of {len(value)}")
    return " ".join(words)


def _bundle(value: Any) -> dict[str, Any]:
    """The representations of ``value`` by MIME type."""
    bundle: dict[str, Any] = {"text/plain": repr(value)}
    if isinstance(value, type):
        return bundle
    package = type(value).__module__.partition(".")[0]
    drawn = package in _DRAWN_BY_IPYTHON or hasattr(value, "_repr_mimebundle_")
    if drawn and importlib.util.find_spec("IPython") is not None:
        return {**worker_display.static_bundle(value), **bundle}
    renderers = {"text/html": "_repr_html_", "text/markdown": "_repr_markdown_",
                 "image/svg+xml": "_repr_svg_", "text/latex": "_repr_latex_"}  # fmt: skip
    for mime, method in renderers.items():
        render: Callable[[], str | None] | None = getattr(value, method, None)
        shown = render() if render is not None else None
        if shown is not None:
            bundle[mime] = shown
    return bundle


_DRAWN_BY_IPYTHON = ("bokeh", "matplotlib")


class _Plots:
    """The matplotlib figures that a cell draws. Only looks if the cell imports pyplot."""

    def __init__(self) -> None:
        self._shown: list[Any] = []
        os.environ["MPLBACKEND"] = "agg"
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.switch_backend("agg")
            pyplot.close("all")

    def collect(self) -> list[dict[str, Any]]:
        """Each open figure as a PNG; closes them."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return []
        bundles = []
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            self._shown.append(figure)
            picture = io.BytesIO()
            figure.savefig(picture, format="png", bbox_inches="tight")
            encoded = base64.b64encode(picture.getvalue()).decode("ascii")
            bundles.append({"image/png": encoded, "text/plain": repr(figure)})
        pyplot.close("all")
        return bundles

    def has_shown(self, value: Any) -> bool:
        """Whether ``value`` is a figure that has been collected."""
        return any(value is figure for figure in self._shown)
