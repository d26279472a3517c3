"""``%nbray objects``: what this notebook keeps in the object store, and how to let it go."""

from __future__ import annotations

import argparse
import ctypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbray.notebook import ObjectRef, engine

from ..cell.remote_value import RemoteValue
from ..pictures.tables import Table, as_bytes, count
from ..words import did_you_mean, shortened
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_OUT = re.compile(r"Out\[?(\d+)\]?|_(\d+)")
_OF_THE_SHELL = re.compile(r"_+|_i+|_i?\d+|In|Out|_[iod]h")
_DEPTH = 3
_LOOKED_AT = 10_000
SHOWN = 200
"""So many rows, the largest, of a table of what a notebook keeps."""


@dataclass(frozen=True)
class Held:
    """One thing of the notebook that keeps memory of the object store.

    Attributes:
        name: the name, or ``Out[3]``.
        what: in a few words.
        size: bytes, None while not known.
        state: of the object.
    """

    name: str
    what: str
    size: int | None
    state: str


def held(workspace: Workspace) -> list[Held]:
    """Everything in names and in ``Out[]`` that refers to objects, the largest first."""
    found = []
    for name, value in _places(workspace):
        refs = list(refs_in(value, _DEPTH))
        if refs:
            facts = [engine().tasks.describe(ref) for ref in refs]
            sizes = [fact.size for fact in facts if fact.size is not None]
            states = sorted({fact.state for fact in facts})
            what = type(value).__name__
            if not isinstance(value, engine().api.ObjectRef | RemoteValue):
                what += f" with {counted(refs)}"
            size = sum(sizes) if sizes else None
            found.append(Held(name, what, size, ", ".join(states)))
        elif (size := _mapped_bytes(value)) is not None:
            found.append(Held(name, f"{type(value).__name__} read in place", size, "ready"))
    for entry in workspace.sent.entries():
        found.append(Held(entry.name, "as sent to remote cells", entry.size, "ready"))
    return sorted(found, key=lambda item: -(item.size or 0))


def _places(workspace: Workspace) -> Iterator[tuple[str, Any]]:
    outputs: dict[int, Any] = workspace.namespace.get("Out", {})
    for number, value in list(outputs.items()):
        yield f"Out[{number}]", value
    yield from named(workspace)


def named(workspace: Workspace) -> Iterator[tuple[str, Any]]:
    """The names of the notebook, without the shell's own, and their values.

    By ``globals()[5] = ...`` it may have others, which no code can say.
    """
    for name, value in workspace.namespace.copy().items():
        if isinstance(name, str) and not _OF_THE_SHELL.fullmatch(name):
            yield name, value


def counted(refs: Sequence[ObjectRef]) -> str:
    """How many `refs_in` has found: of what holds more, it looks at the first."""
    return count(len(refs), "ref") + (" or more" if len(refs) >= _LOOKED_AT else "")


def refs_in(value: Any, depth: int) -> Iterator[ObjectRef]:
    """The refs in a value, and in containers in it to this depth."""
    if isinstance(value, engine().api.ObjectRef):
        yield value
    elif isinstance(value, RemoteValue):
        yield value.ref
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for item in list(value)[:_LOOKED_AT]:
            yield from refs_in(item, depth - 1)
    elif depth and type(value) is dict:
        for item in list(value.values())[:_LOOKED_AT]:
            yield from refs_in(item, depth - 1)


def _mapped_bytes(value: Any) -> int | None:
    """The size of an array that lies in the object store, None for one that does not."""
    base, seen = value, 0
    while type(base).__module__ == "numpy" and getattr(base, "base", None) is not None:
        base = base.base
        seen += 1
    in_store = seen and isinstance(base, memoryview) and isinstance(base.obj, ctypes.Array)
    return base.nbytes if in_store else None


def _keeps(value: Any) -> bool:
    return bool(list(refs_in(value, _DEPTH))) or _mapped_bytes(value) is not None


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "--release", metavar="NAME", action="append", default=[],
        help="let go of that name or Out[N]; may be given several times",
    )  # fmt: skip


def _names(workspace: Workspace) -> list[str]:
    return [item.name for item in held(workspace)] if engine().api.is_initialized() else []


def _run(workspace: Workspace, arguments: argparse.Namespace) -> object:
    for name in arguments.release:
        _release(workspace, name)
    items = held(workspace)
    if not items:
        return Table((), (), notes=["This notebook keeps nothing in the object store."])
    rows = [
        (
            shortened(item.name), item.what, "?" if item.size is None else as_bytes(item.size),
            item.state,
        )
        for item in items[:SHOWN]
    ]  # fmt: skip
    notes = ["%nbray objects --release NAME lets go of one."]
    if len(rows) < len(items):
        notes.insert(0, f"The largest {SHOWN} of {len(items):,} are shown.")
    return Table(("held by", "what", "size", "state"), rows, notes=notes)


def _release(workspace: Workspace, name: str) -> None:
    """Remove a name, or a past output wherever IPython keeps it.

    Raises:
        UsageError: nothing here has that name.
    """
    namespace = workspace.namespace
    sent = workspace.sent.drop(name)
    if found := _OUT.fullmatch(name):
        number = int(found[1] or found[2])
        outputs: dict[int, Any] = namespace.get("Out", {})
        if number not in outputs:
            raise UsageError(f"%nbray objects: there is no Out[{number}].")
        value = outputs.pop(number)
        for other in [f"_{number}", "_", "__", "___"]:
            if namespace.get(other) is value:
                namespace.pop(other)
        hook = workspace.shell.displayhook
        for other in ("_", "__", "___"):
            if getattr(hook, other, None) is value:
                setattr(hook, other, "")
        return
    if name in namespace and _keeps(namespace[name]):
        del namespace[name]
    elif not sent:
        hint = did_you_mean(name, _names(workspace))
        raise UsageError(f"%nbray objects: {name!r} keeps nothing in the object store.{hint}")


COMMANDS = (
    Command("objects", "What names and Out[] keep in the object store; --release lets go.",
            _run, _arguments, {"release": lambda workspace, _given: _names(workspace)}),
)  # fmt: skip
