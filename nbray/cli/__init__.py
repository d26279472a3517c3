"""The command ``nbray``: start, watch and stop nodes from a shell."""

from __future__ import annotations

import io
import sys

import click

from nbray.cli.rays_options import without_effect
from nbray.cli.table import Commands


@click.group(cls=Commands)
@click.version_option(package_name="nbray")
@click.option("--logging-level", hidden=True, expose_value=False, callback=without_effect)
@click.option("--logging-format", hidden=True, expose_value=False, callback=without_effect)
def main() -> None:
    """A cluster for a notebook, with Ray's programming model."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what it has no letters for ends no command
        sys.stdout.reconfigure(errors="backslashreplace")
