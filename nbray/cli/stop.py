"""``nbray stop``: end nodes of this machine, of the cluster that is meant."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import click

from nbray.cli.terminal import CliError, say
from nbray.common.text import one_line
from nbray.launcher.found import (
    FoundNode,
    end_nodes,
    end_unfinished_starts,
    found_nodes,
    node_of,
    starters,
)
from nbray.launcher.record import NodeRecord


@click.command()
@click.option("--address", help="HOST:PORT of the cluster whose nodes here are to end, also one "
              "that a program or a notebook holds.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="All clusters that nbray start started.")
@click.option("-f", "--force", is_flag=True, help="Kill the processes, without asking them first.")
@click.option("-g", "--grace-period", type=click.FloatRange(min=0), default=16.0,
              show_default=True, help="Seconds that a node has to end by itself.")  # fmt: skip
def stop(address: str | None, everything: bool, force: bool, grace_period: float) -> None:
    """Stop the nodes of this machine that `nbray start` started.

    Of several clusters, --address or --all says which; without, a terminal is asked. A cluster
    that a program or a notebook holds ends with its holder, and is left alone unless --address
    names it. In the commands of `nbray up` it ends the node of that cluster.
    """
    record = NodeRecord.from_environment()
    if record is not None:
        _stop_recorded(record, 0.0 if force else grace_period)
        return
    try:
        running = [node for node in found_nodes() if node.processes]
        dead = [node for node in found_nodes() if not node.processes and not node.fate_shared]
    except OSError as error:
        raise CliError(str(error)) from error
    if address is not None:
        chosen = [node for node in running if node.gcs_address == address]
        if not chosen:
            raise CliError(f"No cluster {address} has a node here.{_overview(running)}")
    else:
        chosen = [node for node in running if node.by_command]
        if not everything and len(_addresses(chosen)) > 1:
            _ask_for_all(chosen)
    for node in running:
        if node not in chosen and not node.by_command:
            say(f"Left alone: cluster {node.gcs_address} ends with the program holding it.")
    stopped = 0 if address is not None else end_unfinished_starts()
    ending = _detached_cells(chosen)
    end_nodes(chosen, 0.0 if force else grace_period)
    stopped += len(chosen)
    for node in dead:
        node.session.remove()
    starting = [] if address is not None else starters()
    if stopped or not starting:
        say(f"Stopped {stopped} node(s)." if stopped else "No node to stop.")
    for pid in starting:
        say(f"Left alone: process {pid} is starting a node. Interrupt it, or stop the node then.")
    _tell(ending)


def _stop_recorded(record: NodeRecord, grace_s: float) -> None:
    """End the node of a cluster of `nbray up`; a session that is to come back stays."""
    if record.session is None:
        say("No node to stop.")
        return
    node = node_of(record.session)
    ending = _detached_cells([node])
    if str(node.session.path) == os.environ.get("NBRAY_SESSION"):
        node.end_processes(grace_s)
    else:
        node.end(grace_s)
    say(f"Stopped the node of {node.session.path}.")
    _tell(ending)


def _detached_cells(nodes: Sequence[FoundNode]) -> list[str]:
    if not nodes:
        return []
    from nbray.cli.ending_cells import running_cells  # imports asyncio

    return running_cells(nodes)


def _tell(ending: Sequence[str]) -> None:
    if ending:
        names = ", ".join(one_line(name) for name in ending)
        say(f"Detached cells of notebooks ended with it: {names}.")


def _addresses(nodes: Sequence[FoundNode]) -> list[str]:
    return list(dict.fromkeys(node.gcs_address for node in nodes))


def _overview(nodes: Sequence[FoundNode]) -> str:
    """The clusters, one a line, each line after a line break."""
    lines = []
    for address in _addresses(nodes):
        mine = [node for node in nodes if node.gcs_address == address]
        began = min(process.create_time() for node in mine for process in node.processes)
        count = f"{len(mine)} node{'s' if len(mine) > 1 else ''} here"
        held = "" if mine[0].by_command else ", held by a program"
        when = time.strftime("%d %b %H:%M", time.localtime(began))
        lines.append(f"\n  {one_line(address)}: {count}, since {when}{held}")
    return "".join(lines)


def _ask_for_all(nodes: Sequence[FoundNode]) -> None:
    """Raise unless a person says that all of these clusters are to end."""
    overview = f"{len(_addresses(nodes))} clusters run here:{_overview(nodes)}"
    if sys.stdin.isatty():
        say(overview)
        if click.confirm("Stop all of them?"):
            return
        raise CliError("Nothing was stopped. --address HOST:PORT stops one.")
    raise CliError(f"{overview}\nStop one by --address HOST:PORT, or all by --all.")
