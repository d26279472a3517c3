"""The command ``nbray``: start, watch and stop nodes from a shell."""

from __future__ import annotations

import io
import sys

import click

from nbray.cli.table import Commands


@click.group(cls=Commands)
@click.version_option(package_name="nbray")
def main() -> None:
    """A cluster for a notebook, with Ray's programming model."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what it has no letters for ends no command
        sys.stdout.reconfigure(errors="backslashreplace")
