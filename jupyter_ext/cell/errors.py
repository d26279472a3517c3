"""Remote errors as a person reads them: the user's own frames, with cell numbers, root cause first.

The frames of nbray itself are never shown, those of other libraries are counted; the whole
traceback stays one command away (``%nbray tb``). Cells are known by the files that IPython
compiles them under, also in the tracebacks of workers, which keep these names.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbray.common.text import coloured
from nbray.exceptions import ActorError, NbrayError, TaskError
from nbray.notebook import engine

from .places import is_library, is_ours, is_users, library_of

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

CELL_FILE = "<remote cell"
_SHOWN_HERE = (KeyboardInterrupt, BaseExceptionGroup)
_FRAME = re.compile(
    r'(?P<margin>(?: *\| )?)  File "(?P<file>.*?)", line (?P<line>\d+)(?:, in (?P<name>.*))?'
)


def debug_hint() -> str:
    """What looks into an error; "" with an engine that has no such thing."""
    return "" if engine().refusal("%nbray debug") else "%nbray debug looks into it."


@dataclass
class LastError:
    """The last remote error of this notebook.

    Attributes:
        title: where it came from.
        text: its whole traceback; empty while there was none.
        tasks: those that it went through, that which raised first.
        cause: what the user's code raised.
    """

    title: str = ""
    text: str = ""
    tasks: tuple[str, ...] = ()
    cause: BaseException | None = None

    def keep(self, error: BaseException, title: str) -> None:
        """This is the last one now."""
        parts = []
        self.tasks, self.cause = (), None
        if isinstance(error, TaskError):
            self.tasks, self.cause = error.tasks, error.cause
            there = "\n".join(_with_sources(error.traceback_str.rstrip()))
            parts += [f"In the worker (pid {error.alone().pid}):", there, ""]
            parts += ["Here:", "".join(traceback.format_tb(error.__traceback__)).rstrip()]
        else:
            parts += ["".join(traceback.format_exception(error, chain=False)).rstrip()]
        self.title, self.text = title, "\n".join(parts)


@dataclass(frozen=True)
class CellNames:
    """Which cell a file of code is."""

    shell: InteractiveShell | None = field(default=None, compare=False)

    def of(self, file: str) -> str | None:
        """``In [3]``, or None for a file that is no cell."""
        if file.startswith(CELL_FILE):
            return file.removeprefix(CELL_FILE).strip(" >")
        known: dict[str, int] = getattr(getattr(self.shell, "compile", None), "_filename_map", {})
        return f"In [{known[file]}]" if file in known else None


def _with_sources(text: str) -> Iterator[str]:
    """A worker's traceback; it has no source of a cell's function, but the notebook has."""
    lines = text.split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        yield line
        frame = _FRAME.match(line)
        if frame is not None and not following.startswith(frame["margin"] + "    "):
            source = linecache.getline(frame["file"], int(frame["line"])).strip()
            if source:
                yield f"{frame['margin']}    {source}"


def user_lines(text: str, cells: CellNames) -> Iterator[str]:
    """A traceback with the user's frames only, cells by number and with their source lines.

    Those of a group of errors stand behind a margin.
    """
    hidden: dict[str, int] = {}
    margin = ""
    lines = text.rstrip("\n").split("\n")
    position = 0
    while position < len(lines):
        frame = _FRAME.match(lines[position])
        position += 1
        if frame is None:
            yield from _hidden_note(hidden, margin)
            yield lines[position - 1]
            continue
        source, margin = [], frame["margin"]
        while position < len(lines) and lines[position].startswith(margin + "    "):
            source.append(lines[position])
            position += 1
        file, number = frame["file"], int(frame["line"])
        cell = cells.of(file)
        if cell is None and not is_users(file):
            if not is_ours(file):
                library = library_of(file)
                hidden[library] = hidden.get(library, 0) + 1
            continue
        yield from _hidden_note(hidden, margin)
        place = f"  Cell {cell}" if cell is not None else f'  File "{file}"'
        yield f"{margin}{place}, line {number}" + (f", in {frame['name']}" if frame["name"] else "")
        if not source and (line := linecache.getline(file, number).strip()):
            source = [f"{margin}    {line}"]
        yield from source


def _hidden_note(hidden: dict[str, int], margin: str) -> Iterator[str]:
    if hidden:
        calls = ", ".join(
            f"{number} call{'s' if number > 1 else ''} in {name}" for name, number in hidden.items()
        )
        hidden.clear()
        yield f"{margin}  ... {calls} (%nbray tb shows all)"


def remote_lines(error: BaseException, cells: CellNames) -> list[str]:
    """What happened on the other side, or the error's own text."""
    if isinstance(error, TaskError):
        return list(user_lines(error.traceback_str, cells))
    lines = traceback.format_exception_only(error)
    return [line for text in lines for line in text.rstrip("\n").split("\n")]


def local_lines(error: BaseException, cells: CellNames) -> list[str]:
    """Where the notebook met the error: its own frames."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [
        frame
        for frame in frames
        if cells.of(frame.filename) is not None
        or (is_users(frame.filename) and not frame.filename.startswith("<"))
    ]
    text = "".join(traceback.StackSummary.from_list(mine).format())
    return list(user_lines(text, cells)) if text else []


class ErrorDisplay:
    """Shows nbray's exceptions in cells, and keeps the last one whole."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self.cells = CellNames(shell)
        self.last = LastError()

    def install(self) -> None:
        """From now on IPython renders them by this."""
        display = self
        if not self._shell.custom_exceptions:  # there is one place, which may be the user's
            self._shell.set_custom_exc(  # type: ignore[no-untyped-call]
                _SHOWN_HERE, self._show
            )

        def _render_traceback_(error: BaseException) -> list[str]:
            return display.render(error)

        for kind in {NbrayError, *engine().errors}:
            kind._render_traceback_ = _render_traceback_  # type: ignore[attr-defined]

    def uninstall(self) -> None:
        """IPython shows them as any other exception again."""
        for kind in {NbrayError, *engine().errors}:
            if "_render_traceback_" in vars(kind):
                del kind._render_traceback_  # type: ignore[attr-defined]
        if self._shell.custom_exceptions == _SHOWN_HERE:
            self._shell.set_custom_exc((), None)  # type: ignore[no-untyped-call]

    def _show(
        self, shell: InteractiveShell, kind: Any, error: Any, tb: Any, tb_offset: int | None = None
    ) -> None:
        if isinstance(error, BaseExceptionGroup):
            if hasattr(error, "_render_traceback_"):  # for which IPython does not look in a group
                shell._showtraceback(kind, error, error._render_traceback_())
            else:
                shell.showtraceback((kind, error, tb), tb_offset=tb_offset)
        else:
            self._show_interrupt(shell, kind, error, tb, tb_offset)

    def _show_interrupt(
        self, shell: InteractiveShell, kind: Any, error: Any, tb: Any, tb_offset: int | None
    ) -> None:
        """An interrupt that found the cell waiting in nbray ends at the user's own line."""
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(tb)]
        waited = False
        while files and is_library(files[-1]):
            waited = waited or library_of(files[-1]) == engine().name
            files.pop()
        if files and (waited or is_ours(files[-1])) and not hasattr(error, "_render_traceback_"):
            title = "Traceback (most recent call last):"
            lines = [title, *local_lines(error, self.cells), "KeyboardInterrupt"]
            error._render_traceback_ = lambda: lines
        shell.showtraceback((kind, error, tb), tb_offset=tb_offset)

    def render(self, error: BaseException) -> list[str]:
        """The lines for an error that a cell met."""
        met = local_lines(error, self.cells)
        error = engine().error(error)
        self.last.keep(error, "the last remote error")
        lines = remote_lines(error, self.cells)
        if isinstance(error, TaskError):
            lines.append("")
            lines.append(
                f"{error.function_name}() failed in a worker (pid {error.alone().pid})"
                + (f"; {hint}" if (hint := debug_hint()) else ".")
            )
        if met:
            lines += ["It was met here:", *met]
        return [coloured(line) for line in lines]

    def rendered(self, error: BaseException, lines: list[str], title: str) -> BaseException:
        """``error``, which IPython shows by these lines."""
        self.last.keep(error, title)
        lines = [coloured(line) for line in lines]  # of one that is no text nothing would be shown
        error.__dict__["_render_traceback_"] = lambda: lines
        return error


def error_text(error: BaseException) -> str:
    """An error in one line."""
    cause: Any = error.cause if isinstance(error, TaskError) and error.cause is not None else error
    kind = type(cause).__name__
    # What became of an actor stands behind the facts about it.
    line = str(cause).rstrip().split("\n")[-1 if isinstance(cause, ActorError) else 0]
    return f"{kind}: {line}" if line else kind
