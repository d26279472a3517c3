"""A cell that runs in a worker: how it is sent, how it runs there, what comes back.

The notebook's side (`submit`) sends the cell's text and the values that it reads. The
worker's side (`run_cell`) runs the text in a fresh namespace and returns a `Summary` and one
value for each name that the cell assigns, so that each name has a ref of its own. Functions
of the notebook which the cell calls see the cell's namespace as their globals, as they would
if the cell ran in the kernel.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import importlib
import inspect
import io
import linecache
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle

import nbray
from nbray.jupyter_ext.cell_analysis import CellNames, analyse, names_reached
from nbray.jupyter_ext.remote_value import (
    CELL_FILE,
    RemoteRun,
    RemoteValue,
    Summary,
    Unpicklable,
    Unset,
    resolve_names,
)

LARGE_BYTES = 100 * 1024
"""Values above this size go into the object store once instead of into the task."""
_LAST = "__nbray_last__"


class CannotSendError(TypeError):
    """A value that the cell reads cannot be pickled.

    Attributes:
        name: its name in the notebook.
    """

    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(
            f"The cell reads {name!r}, a {type(value).__name__} that cannot be sent to a worker "
            f"({reason}). Make it inside the remote cell, or do not use it there."
        )
        self.name = name


@dataclass(frozen=True)
class Cell:
    """What a worker is told about a cell.

    Attributes:
        source: the text to run, with lines numbered as in the notebook.
        filename: what tracebacks call it.
        modules: name in the cell -> module to import.
        passed: the names whose values follow as arguments.
        assigns: the names whose values are wanted.
        show: whether the value of the last expression is displayed.
    """

    source: str
    filename: str
    modules: dict[str, str]
    passed: tuple[str, ...]
    assigns: tuple[str, ...]
    show: bool


# --- the notebook's side ----------------------------------------------------------------


def submit(
    source: str,
    label: str,
    namespace: dict[str, Any],
    options: Mapping[str, Any],
) -> tuple[RemoteRun, dict[str, RemoteValue]]:
    """Send a cell to the cluster.

    Args:
        source: the text of the cell; its first line is not run (it holds the magic).
        label: what the cell is called in messages.
        namespace: the notebook's names. Read only, except that names which an earlier
            remote cell perhaps did not assign are fetched first.
        options: for the task, as `nbray.remote` takes them.

    Returns:
        The run, and a RemoteValue for every name that the cell assigns.

    Raises:
        SyntaxError: the cell is not Python.
        CannotSendError: a value that the cell reads cannot be pickled. Nothing was sent.
    """
    filename = f"{CELL_FILE} {label}>"
    body = "\n" + source.partition("\n")[2]
    tree = ast.parse(body, filename)
    remember(filename, source)
    names = analyse(tree)
    reached = names_reached(names.needs, namespace)
    resolve_names(namespace, [name for name in sorted(reached) if _is_uncertain(namespace[name])])
    inputs = {name: namespace[name] for name in reached if isinstance(namespace[name], RemoteValue)}
    modules, small, large = _sort_values(names, namespace)
    passed = {name: value.ref for name, value in inputs.items()}
    passed.update((name, nbray.put(value)) for name, value in large.items())
    wanted = tuple(name for name in names.assigns if not _is_here(name, names, namespace))
    cell = Cell(
        source=source,
        filename=filename,
        modules=modules,
        passed=tuple(passed),
        assigns=wanted,
        show=not body.rstrip().endswith(";"),
    )
    task = nbray.remote(run_cell).options(
        **{"name": f"cell {label}", **options, "num_returns": 1 + len(wanted)}
    )
    made = task.remote(cell, (_anchor(namespace), small), *passed.values())
    refs = made if isinstance(made, list) else [made]
    run = RemoteRun(label, refs[0], [value.run for value in inputs.values()])
    values = {
        name: RemoteValue(
            name, ref, run, name in names.certain,
            *([namespace[name]] if name in namespace else []),
        )
        for name, ref in zip(wanted, refs[1:], strict=True)
    }  # fmt: skip
    return run, values


def remember(filename: str, source: str) -> None:
    """Let tracebacks in this process show the lines of ``source``."""
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)


def _sort_values(
    names: CellNames, namespace: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """How each value that the cell needs travels: as a module's name, inline, or stored."""
    modules: dict[str, str] = {}
    small: dict[str, Any] = {}
    large: dict[str, Any] = {}
    for name in sorted(names.needs & namespace.keys()):
        value = namespace[name]
        if isinstance(value, RemoteValue) or name.startswith("__"):
            continue
        if isinstance(value, ModuleType) and value.__name__ in sys.modules:
            modules[name] = value.__name__
        elif not _is_of_the_shell(name, value):
            target = large if _size(name, value) > LARGE_BYTES else small
            target[name] = value
    return modules, small, large


def _is_here(name: str, names: CellNames, namespace: Mapping[str, Any]) -> bool:
    """Whether the cell only imports a module that the notebook has under that name already."""
    value = namespace.get(name)
    return isinstance(value, ModuleType) and names.imports.get(name) == value.__name__


def _is_uncertain(value: Any) -> bool:
    """Whether an earlier cell only perhaps assigned it, so that it must be looked at first."""
    return isinstance(value, RemoteValue) and not value.certain


def _is_of_the_shell(name: str, value: Any) -> bool:
    return name in {"get_ipython", "exit", "quit", "In", "Out"} or (
        type(value).__module__.partition(".")[0] == "IPython"
    )


def _size(name: str, value: Any) -> int:
    """Bytes that ``value`` takes as a pickle.

    Raises:
        CannotSendError: it has none.
    """
    if isinstance(value, nbray.ObjectRef):
        return 0
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except Exception as error:  # a pickle runs the user's own __reduce__ and __getstate__
        raise CannotSendError(name, value, str(error)) from error
    return len(data) + sum(memoryview(buffer).nbytes for buffer in buffers)


def _anchor(namespace: dict[str, Any]) -> FunctionType:
    """An empty function of the notebook: in the worker its globals are those of all others."""
    return FunctionType(_nothing.__code__, namespace, "anchor")


def _nothing() -> None:
    """Only its code is used."""


# --- the worker's side --------------------------------------------------------------------


def run_cell(cell: Cell, sent: tuple[FunctionType, dict[str, Any]], *passed: Any) -> Any:
    """Run a cell; returns its summary, or a tuple of that and the assigned values.

    Raises:
        BaseException: what the cell raised.
    """
    anchor, small = sent
    namespace = anchor.__globals__
    namespace["__name__"] = "__main__"
    namespace.update(zip(cell.passed, passed, strict=True))
    namespace.update(small)
    for name, value in list(namespace.items()):
        if isinstance(value, Unpicklable):
            raise value.error()
        if isinstance(value, Unset):
            del namespace[name]
    for name, module in cell.modules.items():
        namespace[name] = importlib.import_module(module)
    remember(cell.filename, cell.source)
    plots = _Plots()
    try:
        _execute(cell, namespace)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    displays = plots.collect()
    last = namespace.pop(_LAST, None)
    if last is not None and cell.show:
        displays.append(_bundle(last))
    values = [_outgoing(name, namespace) for name in cell.assigns]
    types = {name: _kind(namespace[name]) for name in cell.assigns if name in namespace}
    summary = Summary(displays, types)
    return (summary, *values) if values else summary


def _execute(cell: Cell, namespace: dict[str, Any]) -> None:
    tree = ast.parse("\n" + cell.source.partition("\n")[2], cell.filename)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = tree.body[-1]
        target = ast.copy_location(ast.Name(_LAST, ast.Store()), last)
        tree.body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
    code = compile(tree, cell.filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)


def _outgoing(name: str, namespace: dict[str, Any]) -> Any:
    """The value as it goes back, or what stands for it."""
    if name not in namespace:
        return Unset(name)
    value = namespace[name]
    try:
        cloudpickle.dumps(value, protocol=5, buffer_callback=lambda _buffer: False)
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
    renderers = {"text/html": "_repr_html_", "text/markdown": "_repr_markdown_",
                 "image/svg+xml": "_repr_svg_", "text/latex": "_repr_latex_"}  # fmt: skip
    for mime, method in renderers.items():
        render: Callable[[], str | None] | None = getattr(value, method, None)
        shown = render() if render is not None else None
        if shown is not None:
            bundle[mime] = shown
    return bundle


class _Plots:
    """The matplotlib figures that a cell draws. Only looks if the cell imports pyplot."""

    def __init__(self) -> None:
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
            picture = io.BytesIO()
            figure.savefig(picture, format="png", bbox_inches="tight")
            encoded = base64.b64encode(picture.getvalue()).decode("ascii")
            bundles.append({"image/png": encoded, "text/plain": repr(figure)})
        pyplot.close("all")
        return bundles
