"""Tab completion behind ``%nbray``, ``%%remote`` and ``%remote``: words, options, live names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nbray
from nbray.jupyter_ext.commands import COMMANDS
from nbray.jupyter_ext.commands.state import actor_names
from nbray.jupyter_ext.remote_options import cell_parser

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbray.jupyter_ext.workspace import Workspace


def install_completers(shell: InteractiveShell, workspace: Workspace) -> None:
    """Let IPython ask us for lines that begin with our magics."""

    def nbray_line(_shell: object, event: Any) -> list[str]:
        return complete_nbray(workspace, _words(event))

    def remote_line(_shell: object, event: Any) -> list[str]:
        return complete_remote(workspace, _words(event))

    shell.set_hook("complete_command", nbray_line, str_key="%nbray")  # type: ignore[no-untyped-call]
    for magic in ("%%remote", "%remote"):
        shell.set_hook("complete_command", remote_line, str_key=magic)  # type: ignore[no-untyped-call]


def _words(event: Any) -> list[str]:
    """The words before the cursor, behind the magic; the last one is being written."""
    line = event.text_until_cursor if hasattr(event, "text_until_cursor") else event.line
    words: list[str] = line.split()
    if line.endswith(" "):
        words.append("")
    return words[1:]


def complete_nbray(workspace: Workspace, words: list[str]) -> list[str]:
    """What may stand in the place of the last word behind ``%nbray``."""
    if len(words) <= 1:
        names = [*COMMANDS, "help"]
    elif words[0] == "help":
        names = list(COMMANDS)
    elif (command := COMMANDS.get(words[0])) is not None:
        if words[-1].startswith("-"):
            names = command.parser().option_names()
        else:
            names = command.values(workspace) if _may_ask(command.needs_cluster) else []
    else:
        names = []
    return _matching(names, words)


def complete_remote(workspace: Workspace, words: list[str]) -> list[str]:
    """What may stand in the place of the last word behind ``%%remote``."""
    before = words[-2] if len(words) > 1 else ""
    names: list[str]
    if before in ("--actor", "--targets"):
        names = actor_names(workspace) if nbray.is_initialized() else []
        if before == "--targets":
            names = ["nodes", "workers", *names]
    elif before == "--on-interrupt":
        names = ["cancel", "detach"]
    elif before in ("-o", "--out"):
        names = [name for name in workspace.namespace if not name.startswith("_")]
    else:
        names = cell_parser().option_names()
    return _matching(names, words)


def _may_ask(needs_cluster: bool) -> bool:
    return nbray.is_initialized() or not needs_cluster


def _matching(names: list[str], words: list[str]) -> list[str]:
    written = words[-1] if words else ""
    return [name for name in names if name.startswith(written)]
