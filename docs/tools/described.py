"""Pages that describe what the code declares: settings, options, the command and the magics."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields

import click
from public import sections

from nbray.cli import main
from nbray.common.config import Config
from nbray.jupyter_ext.commands.table import COMMANDS
from nbray.jupyter_ext.line.options import cell_parser
from nbray.options.option import Scope
from nbray.options.showing import as_markdown


def settings() -> dict[str, str]:
    """What each field of `Config` says, out of its docstring."""
    text = sections(inspect.getdoc(Config) or "")["Attributes"]
    parts = re.split(r"^(\w+): ", text, flags=re.MULTILINE)
    return {
        name: " ".join(said.split()) for name, said in zip(parts[1::2], parts[2::2], strict=True)
    }


def configuration() -> str:
    """The page of settings and of options."""
    said = settings()
    rows = [
        (f"`NBRAY_{field.name.upper()}`", _number(field.default), _sentence(said[field.name]))
        for field in fields(Config)
    ]
    return f"""# Configuration

## Variables

Each is a field of `nbray.common.config.Config`, and is read from the environment of the process
that starts a node: `nbray start`, or the program that calls `nbray.init`. Times are in seconds and
sizes in bytes where the name says nothing else.

{_table(("variable", "default", ""), rows)}

## Options of tasks and actors

For `nbray.remote`, `.options` and `nbray.method`; [`nbray`](reference/nbray.md) has
examples.

### Tasks

{as_markdown(Scope.TASK)}
### Actors

{as_markdown(Scope.ACTOR)}
### Methods of actors

For `nbray.method`; `.options` of a method takes `name`, too.

{as_markdown(Scope.METHOD)}
## Options of `nbray.init`

{as_markdown(Scope.INIT)}
## Options of `nbray start`

{as_markdown(Scope.START)}
## Options of clusters whose nodes are jobs of Slurm

Of `%nbray start --slurm` and `nbray slurm script`; keys of `provider` in a cluster's file, but for
`jobs`.

{as_markdown(Scope.SLURM)}"""


def command() -> str:
    """The page of the command."""
    parts = ["# The command `nbray`", _paragraphs(main.help)]
    context = click.Context(main, info_name="nbray")
    for name, one, inner in _commands(main, context, ""):
        usage = " ".join(one.collect_usage_pieces(inner))
        parts += [f"## `nbray {name}`", f"```\nnbray {name} {usage}\n```", _paragraphs(one.help)]
        rows = [
            (
                f"`{' '.join((*parameter.opts, *parameter.secondary_opts))}`",
                _help_of(parameter, inner),
            )
            for parameter in one.params
            if isinstance(parameter, click.Option) and not parameter.hidden
        ]
        parts.append(_table(("option", ""), rows))
    return "\n\n".join(parts) + "\n"


def _commands(
    group: click.Group, context: click.Context, before: str
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """The commands of a group, and those of the groups in it."""
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        assert one is not None
        inner = click.Context(one, info_name=name, parent=context)
        if isinstance(one, click.Group):
            yield from _commands(one, inner, f"{before}{name} ")
        else:
            yield f"{before}{name}", one, inner


def magics() -> str:
    """The page of the magics."""
    parts = ["# The magics", "`%load_ext nbray` brings them."]
    remote = cell_parser()
    parts += ["## `%%remote` and `%remote`", remote.description or "", remote.epilog or ""]
    parts.append(_table(("option", ""), _arguments(remote)))
    for one in COMMANDS.values():
        parser = one.parser()
        parts += [f"## `%nbray {one.name}`", f"{one.help[:1].upper()}{one.help[1:]}."]
        rows = list(_arguments(parser))
        if rows:
            parts.append(_table(("argument", ""), rows))
    return "\n\n".join(parts) + "\n"


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if action.dest == "help":
            continue
        value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
        words = ", ".join(action.option_strings) + value if action.option_strings else action.dest
        said = (action.help or "").replace("%%", "%")
        if action.choices:
            said += f" ({', '.join(map(str, action.choices))})"
        yield f"`{words}`", said


def _help_of(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    return " ".join(record[1].split()) if record else ""


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _paragraphs(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\b\n", "")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)
