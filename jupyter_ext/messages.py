"""What the notebook and its workers say to each other about a remote cell; it stands below both.

The notebook sends a `Cell` with its `Parcel` (or, once for all workers, a `SetupCell`), and with
functions the `DriverPlace` of its own modules. A worker returns a `Summary`, then one value for
each wanted name; `Unset` and `Unpicklable` stand for those that there are not. A cell that calls
`sys.exit` ends with `CellExit`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbray.notebook import ObjectRef


LAST = "__nbray_last__"
"""The name of the value of a cell's last expression, among those that are wanted."""
NO_KEYBOARD = (
    "a worker has no keyboard to ask at. Ask in the notebook (answer = input()) and use the "
    "answer here."
)


Buffer = bytes | int
"""Small memory as it is, or the number of the part that it is."""


@dataclass(frozen=True)
class Bulky:
    """A value that is a part of its own: the number of its pickle's part, and its memory."""

    stream: int
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True)
class Parcel:
    """The small pickle and the plan of the rest.

    Attributes:
        stream: the pickle.
        buffers: the memory that stands outside of it, in order.
        bulky: the values that are parts, by name.
        refs: the ObjectRefs that occur anywhere; they arrive as refs.
    """

    stream: bytes
    buffers: tuple[Buffer, ...]
    bulky: dict[str, Bulky]
    refs: list[ObjectRef]


@dataclass(frozen=True)
class Cell:
    """What a worker is told about a cell.

    Attributes:
        source: the text as the person wrote it.
        code: the Python to run, with the same line numbers.
        filename: what tracebacks call it.
        modules: name in the cell -> module to import.
        passed: the names whose values follow as arguments.
        own: those of them that are no names of the notebook.
        picked: for those of them that come with others in a dict, their key in it.
        parcel: everything else that the cell reads.
        assigns: the names whose values are wanted.
        brings_changes: what it has changed of other values comes back; else it is told.
        show: whether the value of the last expression is displayed.
    """

    source: str
    code: str
    filename: str
    modules: dict[str, str]
    passed: tuple[str, ...]
    own: tuple[str, ...]
    picked: dict[str, str]
    parcel: Parcel
    assigns: tuple[str, ...]
    brings_changes: bool
    show: bool

    @property
    def returns(self) -> int:
        """How many values `run_cell` returns for it."""
        return 1 + self.brings_changes + len(self.assigns)


@dataclass(frozen=True)
class SetupCell:
    """A cell that every worker runs once: its key, and the cell with its arguments."""

    key: str
    cell: Cell
    arguments: tuple[ObjectRef, ...]


@dataclass(frozen=True)
class Summary:
    """What comes back first from a remote cell.

    Attributes:
        displays: MIME bundles to show, in order.
        types: for each assigned name what its value is, in a few words.
        changed: names whose values were changed in the worker, and only there.
        classes: those of them that are classes.
        code: the assigned names that are functions or classes.
        brought: names whose values were changed and come back, with what the values are.
    """

    displays: list[dict[str, Any]] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    brought: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unset:
    """Stands for a name that the cell's way through its branches did not bind."""

    name: str


@dataclass(frozen=True)
class Unpicklable:
    """Stands for a value that cannot leave its worker."""

    name: str
    type_name: str
    reason: str

    def error(self) -> TypeError:
        """What using the name raises."""
        return TypeError(
            f"{self.name!r} is a {self.type_name} that stayed in its worker, since it cannot be "
            f"pickled ({self.reason}). Use it inside the remote cell that makes it."
        )


class CellExit(Exception):
    """The cell called `sys.exit`, or something that does: it ends, and the worker does not.

    Attributes:
        code: what it was called with.
    """

    def __init__(self, code: object) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return "" if self.code is None else str(self.code)


@dataclass(frozen=True)
class SourceFile:
    """One module: its name, where it is in the driver, its compressed source and its digest."""

    name: str
    path: str
    is_package: bool
    source: bytes
    digest: str


@dataclass(frozen=True)
class DriverPlace:
    """Where the driver stands, and the modules that it has there."""

    working_dir: str
    sys_path: tuple[str, ...]
    modules: tuple[SourceFile, ...]
