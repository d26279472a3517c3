"""``%nbray actors``: what the cluster is doing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nbray.jupyter_ext.commands.base import Command
from nbray.jupyter_ext.tables import Table

if TYPE_CHECKING:
    from nbray.jupyter_ext.workspace import Workspace


def actor_names(workspace: Workspace) -> list[str]:
    """The names of actors that cells can run in."""
    return sorted(workspace.actors)


def _actors(workspace: Workspace, _arguments: argparse.Namespace) -> object:
    rows = [
        (name, handle._actor_id.hex()[:12], handle._class_name)
        for name, handle in workspace.actors.items()
    ]
    return Table(("name", "id", "class"), rows)


COMMANDS = (Command("actors", "The actors.", _actors, values=actor_names),)
