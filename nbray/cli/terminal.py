"""How the command writes to a terminal: nothing that users named can steer it."""

from __future__ import annotations

import sys
from typing import IO, Any

import click
from rich.console import Console
from rich.text import Text

from nbray.common.text import coloured, one_line, printable


class SafeConsole(Console):
    """A console that escapes what cannot be seen, in all text that it is given."""

    def render_str(self, text: str, **how: Any) -> Text:
        """Text with or without markup; see `rich.console.Console.render_str`."""
        return super().render_str(printable(text), **how)


def cell(value: object) -> Text:
    """A cell of a table: one line, without markup."""
    return Text("" if value is None else one_line(str(value)))


def say(text: str, *, err: bool = False) -> None:
    """Write a line."""
    click.echo(printable(text), err=err)


def copy(text: str) -> None:
    """Write a piece of a log as it is; to a terminal with its colours only."""
    click.echo(coloured(text) if sys.stdout.isatty() else text, nl=False)


class CliError(click.ClickException):
    """What went wrong, in a line or a few."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Write it to stderr."""
        click.echo(f"Error: {printable(self.format_message())}", file=file, err=file is None)
