"""All subcommands of ``%nbray``."""

from __future__ import annotations

from . import (
    cache,
    cells,
    cluster,
    dashboard,
    debug,
    detached,
    jobs,
    logs,
    machines,
    objects,
    profile,
    scale,
    state,
    stream,
    timeline,
    who,
)
from .base import Command

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        *cluster.COMMANDS, *machines.COMMANDS, *state.COMMANDS, *logs.COMMANDS,
        *objects.COMMANDS, *who.COMMANDS, *cells.COMMANDS, *cache.COMMANDS, *detached.COMMANDS,
        *debug.COMMANDS, *profile.COMMANDS,
        *jobs.COMMANDS, *stream.COMMANDS, *scale.COMMANDS, *timeline.COMMANDS,
        *dashboard.COMMANDS,
    )
}  # fmt: skip
"""All subcommands by name, in the order in which ``%nbray help`` lists them."""
