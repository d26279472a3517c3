"""``%nbray profile``: where the time and the memory of a remote cell goes, or went."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.display import display

from nbray.debugging.marks import PROFILE, PROFILE_MEMORY, plain
from nbray.notebook import engine

from ..cell.places import is_ours
from ..cell.profiles import Profile
from ..output.counts import counts_now
from ..pictures.flame import Flames
from ..pictures.tables import as_bytes
from ..words import positive
from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_SECONDS = 5.0
_LAST_S = 5.0  # what short tasks of a worker were seen to do is told together, a moment later
_LOOK_S = 0.05
_QUIET_S = 0.2
_NOTES = 3


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "cell", metavar="CELL", nargs="?", help="as In[3] or 3; by default the last one"
    )
    parser.add_argument(
        "--seconds", type=positive, metavar="N", default=_SECONDS,
        help=f"look at a cell that runs for so long ({_SECONDS:g})",
    )  # fmt: skip
    parser.add_argument(
        "--memory",
        action="store_true",
        help="of a cell that runs: what is allocated meanwhile (by memray, which has to be there)",
    )
    parser.add_argument(
        "--here", action="store_true",
        help="of the cell in which this line stands: its tasks from here on, shown when it ends",
    )  # fmt: skip


def _run(workspace: Workspace, arguments: argparse.Namespace) -> object:
    if arguments.here:
        workspace.router.mark(PROFILE | (PROFILE_MEMORY if arguments.memory else 0))
        number = workspace.router.number_of_cell()
        workspace.at_end.append(lambda: show_kept(workspace, number))
        return None
    number = _cell(workspace, arguments.cell)
    label = workspace.router.label(number)
    kept = workspace.profiles.of(number)
    if kept is not None:
        return flames(label, kept)
    found = engine().tasks.profile(number, arguments.seconds, arguments.memory)
    if not found:
        raise UsageError(
            f"%nbray profile: no task of {label} runs, and it was not profiled: "
            "%%remote --profile does that."
        )
    counts: Counter[str] = Counter()
    for one in found:
        worth = 1.0 if arguments.memory else _look_us(one.counts, arguments.seconds)
        for stack, count in one.counts.items():
            if users := users_part(stack):
                counts[users] += round(worth * count)
    hows = sorted({one.how for one in found if one.counts})
    facts = (_many(len(found), "worker"), f"{arguments.seconds:g} s", *hows)
    notes = tuple(f"pid {one.pid}: {one.error}" for one in found if one.error)
    seen = {} if arguments.memory else counts
    return Flames(label, facts, seen, counts if arguments.memory else {}, True, notes)


def flames(label: str, profile: Profile) -> Flames:
    """The pictures of a profile."""
    peak = max(profile.peaks.values(), default=0)
    facts = (
        _many(profile.ended, "task"), _many(len(profile.peaks), "worker"),
        f"at most {as_bytes(peak)} in one", profile.how,
    )  # fmt: skip
    counts = Counter(note for note in list(profile.notes.values()) if note)
    notes = [f"{note} ({_many(n, 'worker')})" if n > 1 else note for note, n in counts.items()]
    if len(notes) > _NOTES:
        notes[_NOTES:] = [f"{len(notes) - _NOTES} more workers say the same of theirs."]
    memory = dict(profile.memory)
    return Flames(label, facts, dict(profile.time), memory, profile.exact, tuple(notes))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")


def _look_us(counts: Mapping[str, int], seconds: float) -> float:
    """How much of the time one look stands for: a thread was seen as often as it was looked at."""
    by_thread: Counter[str] = Counter()
    for stack, count in counts.items():
        by_thread[stack.partition(";")[0]] += count
    return seconds * 1e6 / max(by_thread.values(), default=1)


def users_part(stack: str) -> str:
    """A stack of a whole process without nbray's own frames; empty when nothing is left."""
    thread, *frames = stack.split(";")
    users = [frame for frame in frames if not _is_ours(frame)]
    if not users or thread.startswith("nbray-") or all(map(_is_threads, users)):
        return ""
    return ";".join([thread, *users])


def _is_ours(frame: str) -> bool:
    return is_ours(_file(frame))


def _is_threads(frame: str) -> bool:
    return _file(frame).endswith(("/threading.py", "/concurrent/futures/thread.py"))


def _file(frame: str) -> str:
    return frame.partition(" (")[2].rpartition(":")[0]


def show_kept(workspace: Workspace, number: int) -> None:
    """Show the profile of a cell that has ended."""
    until = time.monotonic() + _LAST_S
    while time.monotonic() < until and not _is_complete(workspace, number):
        time.sleep(_LOOK_S)
    kept = workspace.profiles.of(number) or Profile()
    display(flames(workspace.router.label(number), kept))  # type: ignore[no-untyped-call]


def _is_complete(workspace: Workspace, number: int) -> bool:
    """Whether the tasks that the notebook knows to have ended are in it, and nothing else comes."""
    kept = workspace.profiles.of(number)
    if kept is None or time.monotonic() - kept.arrived < _QUIET_S:
        return False
    ended = sum(row.submitted - row.unfinished for row in counts_now(1.0) if row.origin == number)
    return kept.ended >= ended


def _cell(workspace: Workspace, word: str | None) -> int:
    """The number of the cell that is asked for.

    Raises:
        UsageError: there is no such cell.
    """
    if word is not None:
        wanted = f"In [{''.join(c for c in word if c.isdigit())}]"
    elif workspace.runs:
        wanted = workspace.runs[-1].label
    else:
        raise UsageError("%nbray profile: no remote cell has run yet.")
    numbers = workspace.router.numbers()
    found = [number for number in numbers if workspace.router.label(number) == wanted]
    if not found:
        raise UsageError(f"%nbray profile: there is no cell {wanted}.")
    return max(found, key=plain)


def _labels(workspace: Workspace, _given: Sequence[str]) -> list[str]:
    return [run.label.replace(" ", "") for run in workspace.runs]


COMMANDS = (
    Command("profile", "Where the time and the memory of a remote cell goes, or went.", _run,
            _arguments, {"cell": _labels}),
)  # fmt: skip
