"""``%nbray cache``: what cells with ``--cache`` have kept, and why one ran."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from ..cache.cells import Attempt, key_from
from ..cache.store import Store
from ..pictures.tables import Table, as_bytes, count
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_NAME = 12
"""Letters of an answer's name that tell it from the others."""


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "what", metavar="WHAT", choices=("why", "list", "drop", "clear"),
        help="why: what was compared for a cell, and what had changed; list: what is kept; "
        "drop: let one go; clear: all",
    )  # fmt: skip
    parser.add_argument(
        "which", metavar="WHICH", nargs="?",
        help="a cell, as In[3] or 3 (why: by default the last), or the name of a kept answer",
    )  # fmt: skip


def _which(workspace: Workspace, _given: Sequence[str]) -> list[str]:
    return [label.replace(" ", "") for label in workspace.cache.attempts]


def _cache(workspace: Workspace, arguments: argparse.Namespace) -> object:
    if arguments.what == "why":
        return _why(_attempt(workspace, arguments.which))
    try:
        store = workspace.cache.store()
        if arguments.what == "list":
            return _list(store)
        if arguments.what == "clear":
            dropped = [name for name in store.names() if store.drop(name)]
            print(f"{count(len(dropped), 'answer')} dropped.")
            return None
        _drop(workspace, store, arguments.which)
        return None
    except OSError as error:
        raise UsageError(f"%nbray cache: {error}") from error


def _attempt(workspace: Workspace, which: str | None) -> Attempt:
    attempts = workspace.cache.attempts
    if which is None and attempts:
        return next(reversed(attempts.values()))
    found = attempts.get(_label(which or ""))
    if found is None:
        raise UsageError(
            f"%nbray cache why: {which} is no cell that ran with --cache in this kernel."
            if which
            else "%nbray cache why: no cell has run with --cache in this kernel."
        )
    return found


def _label(which: str) -> str:
    number = re.fullmatch(r"(?:In)? ?\[?(\d+)\]?", which)
    return f"In [{number[1]}]" if number else ""


def _why(attempt: Attempt) -> Table:
    """What was compared, and with what."""
    notes = [attempt.told] if attempt.told else []
    if attempt.made is None:
        return Table((), (), title=attempt.label, notes=notes)
    key = attempt.made.key
    before = {} if attempt.before is None else {
        (part.kind, part.name): part for part in key_from(attempt.before.about).parts
    }  # fmt: skip
    rows = []
    for part in sorted(key.parts, key=lambda part: (part.kind, part.name)):
        was = before.get((part.kind, part.name))
        compared = "the same" if attempt.before is None and attempt.found else "nothing kept"
        if attempt.before is not None:
            compared = "new" if was is None else _differs(part.digest == was.digest)
        rows.append((part.kind, part.name, compared, part.says, part.digest[:_NAME]))
    if attempt.before is not None:
        about = attempt.before.about
        notes.append(f"Compared with {about['label']}, kept {_when(about['kept'])}:")
        notes += [f"- {line}" for line in key.changes(key_from(about))] or ["- nothing differs"]
    notes += [f"It seems to use {hint}." for hint in attempt.made.hints]
    columns = ("part", "name", "compared", "what", "digest")
    return Table(columns, rows, title=attempt.label, notes=notes)


def _differs(same: bool) -> str:
    return "the same" if same else "changed"


def _list(store: Store) -> Table:
    kept = [found for name in store.names() if (found := store.about(name)) is not None]
    if not kept:
        return Table((), (), notes=[f"Nothing is kept in {store.folder}."])
    rows = [
        (
            item.name[:_NAME], item.about["label"], _when(item.about["kept"]),
            f"{item.about['seconds']:.1f} s", as_bytes(item.size),
            ", ".join(item.about["names"]), item.about["line"],
        )
        for item in kept
    ]  # fmt: skip
    total = sum(item.size for item in kept)
    notes = [
        f"{as_bytes(total)} of {as_bytes(store.most)} (%nbray config cache_bytes) in "
        f"{store.folder}; the oldest go first."
    ]
    columns = ("answer", "cell", "kept", "took", "size", "names", "first line")
    return Table(columns, rows, notes=notes)


def _when(then: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))


def _drop(workspace: Workspace, store: Store, which: str | None) -> None:
    """Let an answer go, by its name or by the cell that looked it up."""
    if which is None:
        raise UsageError("%nbray cache drop: which? %nbray cache list has their names.")
    attempt = workspace.cache.attempts.get(_label(which))
    if attempt is not None and attempt.made is not None:
        found = [attempt.made.key.digest]
    else:
        found = [name for name in store.names() if name.startswith(which)]
    if len(found) > 1:
        raise UsageError(f"%nbray cache drop: {len(found)} answers begin with {which!r}.")
    if not found or not store.drop(found[0]):
        raise UsageError(f"%nbray cache drop: nothing is kept for {which!r}.")
    print("1 answer dropped.")


COMMANDS = (
    Command("cache", "What cells with --cache have kept, and why one ran: %nbray cache why In[3].",
            _cache, _arguments, {"which": _which}, needs_cluster=False),
)  # fmt: skip
