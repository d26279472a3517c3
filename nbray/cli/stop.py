"""``nbray stop``: end the nodes that ``nbray start`` started on this machine."""

from __future__ import annotations

import click

from nbray.cli.terminal import CliError, say
from nbray.launcher.local import end_unfinished_starts, found_nodes


@click.command()
@click.option("--force", is_flag=True, help="Kill the processes instead of asking them to leave.")
def stop(force: bool) -> None:
    """Stop the nodes of this machine that `nbray start` started.

    A cluster that a program, a notebook or `nbray start --block` holds ends with its holder, and
    is left alone.
    """
    try:
        nodes = found_nodes()
    except OSError as error:
        raise CliError(str(error)) from error
    stopped = end_unfinished_starts()
    for node in nodes:
        if node.processes and node.fate_shared:
            say(f"Left alone: cluster {node.gcs_address} ends with the program holding it.")
            continue
        stopped += bool(node.processes)
        node.stop(force)
    say(f"Stopped {stopped} node(s)." if stopped else "No node to stop.")
