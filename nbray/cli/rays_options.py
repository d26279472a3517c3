"""Options that Ray's commands have for how they print, which change nothing here."""

from __future__ import annotations

from typing import Any

import click

from nbray.common.ignoring import ignore

_PRINTING = frozenset(
    {
        "attach", "check-open-ports", "down", "exec", "job", "monitor", "rsync-down", "rsync-up",
        "stop", "submit", "up",
    }
)  # fmt: skip
"""The commands that have them in Ray; those of `start` stand in the table of options."""


def take_rays_options(name: str, command: click.Command) -> None:
    """Have a command, or all of a group, take the options that Ray's has. A second time is none."""
    if name not in _PRINTING:
        return
    if isinstance(command, click.Group):
        for one in command.commands.values():
            _add(one)
    else:
        _add(command)


def _add(command: click.Command) -> None:
    taken = {word for parameter in command.params for word in parameter.opts}
    for words, how in (
        (("--log-style",), {"type": click.Choice(["auto", "record", "pretty"])}),
        (("--log-color",), {"type": click.Choice(["auto", "false", "true"])}),
        (("-v", "--verbose"), {"is_flag": True}),
    ):
        if taken.isdisjoint(words):
            command.params.append(
                click.Option(words, hidden=True, expose_value=False, callback=without_effect, **how)
            )


def without_effect(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """What is done about an option that was given, and changes nothing."""
    if value:
        ignore(f"nbray {context.info_name}", (max(parameter.opts, key=len),))
