"""The command ``nbray``: start, watch and stop nodes from a shell."""

from __future__ import annotations

import click

from nbray.cli.table import Commands


@click.group(cls=Commands)
@click.version_option(package_name="nbray")
def main() -> None:
    """A cluster for a notebook, with Ray's programming model."""
