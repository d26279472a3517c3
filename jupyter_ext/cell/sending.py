"""The notebook's side of a remote cell: what is sent, and what stands for what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, Protocol

from nbray.notebook import ObjectRef

from ..messages import LAST, Cell
from ..worker.running import remember
from .analysis import CellNames, names_reached
from .errors import CELL_FILE
from .local_modules import LocalModules
from .remote_value import RemoteValue
from .run import RemoteRun
from .text import CellText, NotRemoteError, read_cell
from .values import Packed, SentValues


class Notebook(Protocol):
    """What sending a cell needs of the notebook."""

    sent: SentValues
    modules: LocalModules

    @property
    def namespace(self) -> dict[str, Any]:
        """Its names."""

    def transform(self, text: str) -> str:
        """Magics as Python."""

    def resolve(self, names: Sequence[str]) -> None:
        """Have the values of these names here, if they are still in the cluster."""


@dataclass(frozen=True)
class Wanted:
    """What a target asks of a cell.

    Attributes:
        names: exactly these come back; None for all that it assigns.
        last: also the value of its last expression, instead of showing it.
        changes: also the values of the notebook that it has changed.
        variables: names that the target passes as the first arguments.
        also: names that are needed as well, those of them that the notebook has.
    """

    names: tuple[str, ...] | None = None
    last: bool = False
    changes: bool = False
    variables: tuple[str, ...] = ()
    also: Set[str] = frozenset()


@dataclass(frozen=True)
class ReadyCell:
    """A cell that can be submitted, as often as one likes.

    Attributes:
        label: what it is called, as ``In [3]``.
        text: its text, read.
        cell: what a worker is told.
        names: the names of the notebook that come back.
        arguments: what follows ``cell`` and the set-up cells in `run_cell`.
        inputs: the earlier runs whose values it reads.
        packed: what was sent for it.
    """

    label: str
    text: CellText
    cell: Cell
    names: tuple[str, ...]
    arguments: list[ObjectRef]
    inputs: list[RemoteRun]
    packed: Packed = field(repr=False)

    @property
    def certain(self) -> set[str]:
        """The names that it binds, or changes, whichever way it goes."""
        return {*self.text.names.certain, *self.text.names.mutates}

    @property
    def sent_bytes(self) -> int:
        """Bytes that went for it."""
        total: int = self.packed.inline_bytes + sum(self.packed.new_bytes.values())
        return total


def prepare(notebook: Notebook, source: str, label: str, wanted: Wanted) -> ReadyCell:
    """Read a cell and send what it needs.

    Args:
        notebook: where it stands.
        source: the text of the cell; its first line is not run (it holds the magic).
        label: what the cell is called in messages.
        wanted: what its target asks of it.

    Raises:
        SyntaxError: the cell is not Python.
        NotRemoteError: it cannot run in a worker.
        CannotSendError: a value that it reads cannot be pickled. Nothing was sent.
    """
    namespace = notebook.namespace
    filename = f"{CELL_FILE} {label}>"
    text = read_cell(source, filename, namespace, notebook.transform)
    remember(filename, source)
    names = text.names
    notebook.modules.watch(names.imports.values())
    own = set(wanted.variables)
    needs = (names.needs | wanted.also) - own
    reached = names_reached(needs, namespace) - own
    uncertain = [name for name in sorted(reached) if _is_uncertain(namespace[name])]
    notebook.resolve(uncertain)
    passed: dict[str, ObjectRef] = {}
    picked: dict[str, str] = {}
    by_id: dict[int, str] = {}
    inputs: list[RemoteRun] = []
    for name in sorted(reached):
        value = namespace[name]
        ref = notebook.sent.origin(name, value)
        if isinstance(value, RemoteValue):
            if value.run.is_lost():
                notebook.resolve([name])  # raises, and says so
            ref = value.ref
            inputs.append(value.run)
            if value.among:
                picked[name] = value.name
        if ref is not None:
            passed[name] = ref
            by_id[id(value)] = name
    come_back = _names_back(names, namespace, wanted, own)
    modules: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name in sorted(needs & namespace.keys() - passed.keys()):
        value = namespace[name]
        if isinstance(value, ModuleType):
            modules[name] = value.__name__
        elif not name.startswith("__") and not is_of_the_shell(name, value):
            values[name] = value
    further = {
        name: namespace[name]
        for name in reached - passed.keys() - values.keys()
        if not isinstance(namespace[name], ModuleType)
        and not name.startswith("__")
        and not is_of_the_shell(name, namespace[name])
    }
    notebook.sent.forget_missing(namespace, [*values, *further])
    packed = notebook.sent.pack(values, further, by_id, namespace)
    cell = Cell(
        source=source,
        code=text.code,
        filename=filename,
        modules=modules,
        passed=(*wanted.variables, *passed),
        own=wanted.variables,
        picked=picked,
        parcel=packed.parcel,
        assigns=(*come_back, *([LAST] if wanted.last else [])),
        brings_changes=wanted.changes and bool(passed or values or further),
        show=text.show,
    )
    arguments = [*passed.values(), *packed.parts]
    return ReadyCell(label, text, cell, come_back, arguments, inputs, packed)


def _names_back(
    names: CellNames, namespace: Mapping[str, Any], wanted: Wanted, own: set[str]
) -> tuple[str, ...]:
    if wanted.names is not None:
        for name in wanted.names:
            if name not in names.assigns and name not in names.needs:
                raise NotRemoteError(f"-o {name}: the cell neither assigns nor reads {name!r}.")
        return wanted.names
    changed = [
        name
        for name in sorted(names.mutates & namespace.keys() - own)
        if not isinstance(namespace[name], ModuleType | type | FunctionType)
    ]
    return tuple(
        dict.fromkeys(
            [
                *(name for name in names.assigns if not _is_here(name, names, namespace)),
                *changed,
            ]
        )
    )


def _is_here(name: str, names: CellNames, namespace: Mapping[str, Any]) -> bool:
    """Whether the cell only imports a module that the notebook has under that name already."""
    value = namespace.get(name)
    return isinstance(value, ModuleType) and names.imports.get(name) == value.__name__


def _is_uncertain(value: Any) -> bool:
    """Whether an earlier cell only perhaps assigned it, so that it must be looked at first."""
    return isinstance(value, RemoteValue) and not value.certain


def is_of_the_shell(name: str, value: Any) -> bool:
    """Whether a name is IPython's, which no cell is sent."""
    return name in {"get_ipython", "exit", "quit", "In", "Out"} or (
        type(value).__module__.partition(".")[0] == "IPython"
    )
