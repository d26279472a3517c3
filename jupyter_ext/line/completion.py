"""Tab completion behind ``%nbray``, ``%%remote`` and ``%remote``: words, options, live names.

Where we have something to offer, it is all that is offered: Python's own names mean nothing there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)

from nbray.notebook import engine

from ..commands.state import actor_names
from ..commands.table import COMMANDS
from .options import cell_parser

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..workspace import Workspace

_MATCHER = "nbray_matcher"


def install_completers(shell: InteractiveShell, workspace: Workspace) -> None:
    """Let IPython ask us for lines that begin with our magics."""

    @context_matcher(identifier=_MATCHER)  # type: ignore[untyped-decorator]
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        line = context.line_with_cursor[: context.cursor_position]
        names = complete_line(workspace, line, first=context.cursor_line == 0)
        token = context.token
        written = _words(line)[-1]
        # IPython puts a completion in the place of its token, which ends where the word does.
        head = written.removesuffix(token)
        shown = [
            SimpleCompletion(name.removeprefix(head), type="option" if name[0] == "-" else "word")
            for name in names
        ]
        return SimpleMatcherResult(completions=shown, suppress=bool(shown))

    uninstall_completers(shell)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(matcher)


def uninstall_completers(shell: InteractiveShell) -> None:
    """Undo `install_completers`."""
    if shell.Completer is not None:
        matchers = shell.Completer.custom_matchers
        matchers[:] = [m for m in matchers if getattr(m, "matcher_identifier", "") != _MATCHER]


def complete_line(workspace: Workspace, line: str, first: bool = True) -> list[str]:
    """What may stand in the place of the last word of a line.

    Args:
        workspace: the notebook.
        line: what is written of it.
        first: whether it is the first of its cell, where a cell's magic may stand.
    """
    magic, *words = _words(line)
    if not words:
        return []
    if magic == "%nbray":
        return complete_nbray(workspace, words)
    if magic == "%%remote" and first:
        return complete_remote(workspace, words)
    if magic == "%remote" and words[0].startswith("-") and "--" not in words[:-1]:
        return complete_remote(workspace, words)
    return []


def _words(line: str) -> list[str]:
    """The words of a line; the last one is being written."""
    words: list[str] = line.split()
    return words if words and not line[-1].isspace() else [*words, ""]


def complete_nbray(workspace: Workspace, words: list[str]) -> list[str]:
    """What may stand in the place of the last word behind ``%nbray``."""
    *before, written = words
    if not before:
        return _matching([*COMMANDS, "help"], written)
    if before[0] == "help":
        return _matching(list(COMMANDS) if len(before) == 1 else [], written)
    command = COMMANDS.get(before[0])
    if command is None:
        return []
    given = before[1:]
    parser = command.parser()
    options = parser.options_left(given)
    wanted = parser.option_behind(given)
    if wanted is None and written.startswith("-"):
        return _matching(options, written)
    place = wanted or parser.place_behind(given)
    names: list[str] = []
    if place is not None:
        names = [str(choice) for choice in place.choices or ()]
        live = command.values.get(place.dest)
        if live is not None and (engine().api.is_initialized() or not command.needs_cluster):
            names = live(workspace, given)
        if place.metavar == "FILE":
            return []  # IPython knows the files
    if wanted is None and not written:
        names = [*names, *(name for name in options if name.startswith("--"))]
    return _matching(names, written)


def complete_remote(workspace: Workspace, words: list[str]) -> list[str]:
    """What may stand in the place of the last word behind ``%%remote``."""
    *given, written = words
    before = given[-1] if given else ""
    parser = cell_parser()
    if before in ("--actor", "--targets"):
        names = actor_names(workspace) if engine().api.is_initialized() else []
        if before == "--targets":
            names = ["nodes", "workers", *names]
    elif before in ("-o", "--out"):
        names = [name for name in list(workspace.namespace) if not name.startswith("_")]
    elif (wanted := parser.option_behind(given)) is not None:
        names = [str(choice) for choice in wanted.choices or ()]
    else:
        names = [
            name
            for name in parser.options_left(given)
            if written.startswith("-") or name.startswith("--")
        ]
    return _matching(names, written)


def _matching(names: list[str], written: str) -> list[str]:
    return [name for name in names if name.startswith(written)]
