"""How the command writes to a terminal: nothing that users named can steer it."""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from nbray.common.text import coloured, printable


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
