"""The worker's side of a remote cell.

`run_cell` runs the text as the module ``__main__``, in a fresh namespace, and returns a
`Summary`, what the cell has changed of the notebook's values, and one value for each name that is
wanted, so that each has a ref of its own. Functions of the notebook which the cell calls see the
cell's namespace as their globals, as they would if the cell ran in the kernel
(`nbray.jupyter_ext.worker.home`). `run_in_actor` does the same in a namespace that an actor keeps.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import gc
import importlib
import inspect
import linecache
import sys
import threading
import weakref
from collections.abc import Collection, Sequence
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from nbray.notebook import engine

from ..messages import LAST, NO_KEYBOARD, Cell, CellExit, SetupCell, Summary, Unpicklable, Unset
from .changes import Watch
from .displays import Plots, bundle_of, kind_of
from .home import Envelope, enclosed
from .main import as_main, new_main
from .own_values import make_own
from .parcel import unpack

if TYPE_CHECKING:
    from nbray.notebook import ObjectRef


class _Place:
    """Where a cell runs: its module ``__main__``, and the memory that it may write on."""

    def __init__(self, module: ModuleType | None = None) -> None:
        self.module = module or new_main()
        self.memory = engine().memory()
        self.sent: dict[str, Any] = {}

    @property
    def namespace(self) -> dict[str, Any]:
        return vars(self.module)

    def open(self, cell: Cell, arguments: Sequence[Any], kept: Collection[str] = ()) -> None:
        """Put everything that was sent into the namespace, but for the names that are ``kept``.

        Raises:
            TypeError: one of the values could not leave its worker.
        """
        home, memory = self.namespace, self.memory
        passed: dict[str, Any] = {}
        for name, argument in zip(cell.passed, arguments, strict=False):
            value = argument[cell.picked[name]] if name in cell.picked else argument
            if isinstance(value, Unpicklable):
                raise value.error()
            if isinstance(value, Unset):
                continue
            if isinstance(value, Envelope):
                passed[name] = value.open(home, memory.writable)
            else:
                passed[name] = make_own(value, memory, home)
        parts = arguments[len(cell.passed) :]
        values, carried = unpack(cell.parcel, parts, passed, home, memory.writable)
        for name, module in cell.modules.items():
            values[name] = importlib.import_module(module)
        sent = {
            name: value
            for name, value in {**carried, **passed, **values}.items()
            if name not in kept and name not in ("__name__", "__builtins__")
        }
        home.update(sent)
        for name in cell.own:
            sent.pop(name, None)
        self.sent = sent


_MUCH = 64 << 20
_COLLECT_S = 0.1
_setups_done: dict[str, dict[str, Any]] = {}
_actor_mains: dict[str, tuple[ModuleType, set[str]]] = {}


def run_cell(cell: Cell, setups: Sequence[tuple[str, ObjectRef]], *arguments: Any) -> Any:
    """Run a cell; returns its summary, or a tuple of that, the changes and the wanted values.

    Raises:
        CellExit: the cell called `sys.exit`.
        BaseException: what the cell raised.
    """
    names = run_setups(setups)
    place = _Place()
    place.open(cell, arguments)
    for name, value in names.items():
        place.namespace.setdefault(name, value)
    if place.memory.size > _MUCH:
        # Functions and their globals hold each other: else memory and pins stay till some later
        # collection, which a worker that idles does not come to.
        collector = threading.Timer(_COLLECT_S, gc.collect)
        collector.daemon = True
        weakref.finalize(place, collector.start).atexit = False
    return _run(cell, place)


def run_in_actor(
    actor: Any,
    key: str,
    cell: Cell,
    setups: Sequence[tuple[str, ObjectRef]],
    *arguments: Any,
) -> Any:
    """Run a cell in the namespace that this actor keeps under ``key``.

    Names that its own cells assigned win over those that the notebook sends; ``self`` is the
    actor's instance. Raises as `run_cell` does.
    """
    names = run_setups(setups)
    if key not in _actor_mains:
        _actor_mains[key] = new_main(), set()
    module, own = _actor_mains[key]
    place = _Place(module)
    namespace = place.namespace
    namespace.setdefault("self", actor)
    place.open(cell, arguments, kept=own)
    for name, value in names.items():
        if name not in own and name not in place.sent:
            namespace[name] = value
    before = {name: id(value) for name, value in namespace.copy().items()}
    try:
        return _run(cell, place)
    finally:
        own.update(
            name for name, value in namespace.copy().items() if before.get(name) != id(value)
        )


def run_setups(setups: Sequence[tuple[str, ObjectRef]]) -> dict[str, Any]:
    """Run the set-up cells that this worker has not run yet; returns the names of all of them."""
    names: dict[str, Any] = {}
    for key, ref in setups:
        if key not in _setups_done:
            setup: SetupCell = engine().api.get(ref)
            place = _Place()
            place.open(setup.cell, engine().api.get(list(setup.arguments)))
            _run(setup.cell, place)
            _setups_done[key] = {
                name: place.namespace[name]
                for name in setup.cell.assigns
                if name in place.namespace
            }
        names.update(_setups_done[key])
    return names


def _run(cell: Cell, place: _Place) -> Any:
    namespace = place.namespace
    remember(cell.filename, cell.source)
    if engine().output.in_worker():
        builtins.input = _no_input
    plots = Plots()
    watched = {name: value for name, value in place.sent.items() if name not in cell.assigns}
    with as_main(place.module):
        watch = Watch(watched, place.memory)
        try:
            _execute(cell, place.module)
        except SystemExit as leaving:
            raise CellExit(leaving.code).with_traceback(leaving.__traceback__) from None
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        displays = plots.collect()
        if LAST not in cell.assigns:
            last = namespace.pop(LAST, None)
            if last is not None and cell.show and not plots.has_shown(last):
                displays.append(bundle_of(last))
        going = {name: _outgoing(name, namespace) for name in cell.assigns}
        types = {name: kind_of(namespace[name]) for name in cell.assigns if name in namespace}
        code = [
            name
            for name in types
            if isinstance(namespace[name], FunctionType | type)
            and not isinstance(going[name], Unpicklable)
        ]
        changed = watch.changed(namespace)
        brought = _brought(changed, namespace) if cell.brings_changes else {}
        namespace.pop(LAST, None)
    left = tuple(name for name in changed if name not in brought)
    summary = Summary(
        displays,
        types,
        changed=left,
        classes=tuple(name for name in left if isinstance(namespace[name], type)),
        code=tuple(code),
        brought={name: kind_of(namespace[name]) for name in brought},
    )
    if cell.brings_changes:
        return (summary, brought, *going.values())
    return (summary, *going.values()) if going else summary


def _brought(changed: Sequence[str], namespace: dict[str, Any]) -> dict[str, Any]:
    """Those of the changed values that can go back; a class would have to be altered there."""
    found = {
        name: _outgoing(name, namespace)
        for name in changed
        if not isinstance(namespace[name], type)
    }
    return {name: value for name, value in found.items() if not isinstance(value, Unpicklable)}


def _execute(cell: Cell, module: ModuleType) -> None:
    namespace = vars(module)
    if "get_ipython()" in cell.code:
        from .shell import shell_for

        shell = shell_for(module)
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


def _outgoing(name: str, namespace: dict[str, Any]) -> Any:
    """The value as it goes back, or what stands for it."""
    if name not in namespace:
        return None if name == LAST else Unset(name)
    value = namespace[name]
    try:
        return enclosed(value, namespace)
    except Exception as error:  # a pickle runs the user's own __reduce__ and __getstate__
        return Unpicklable(name, type(value).__name__, str(error))


class RemoteNamespace:
    """An actor that is there for cells: its state is the names that they assign."""
