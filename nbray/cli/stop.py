"""``nbray stop``: end the nodes that ``nbray start`` started on this machine."""

from __future__ import annotations

import click

from nbray.launcher.local import found_nodes


@click.command()
def stop() -> None:
    """Stop the nodes of this machine that `nbray start` started.

    A cluster that a program, a notebook or `nbray start --block` holds ends with its holder, and
    is left alone.
    """
    try:
        nodes = found_nodes()
    except OSError as error:
        raise click.ClickException(str(error)) from error
    stopped = 0
    for node in nodes:
        if node.processes and node.fate_shared:
            click.echo(f"Left alone: cluster {node.gcs_address} ends with the program holding it.")
            continue
        stopped += bool(node.processes)
        node.stop()
    click.echo(f"Stopped {stopped} node(s)." if stopped else "No node to stop.")
