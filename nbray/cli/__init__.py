"""The command ``nbray``: start, watch and stop nodes from a shell."""

from __future__ import annotations

import click

from nbray.cli.acting import get_auth_token, health_check, kill_actor
from nbray.cli.dashboard import dashboard
from nbray.cli.jobs import job
from nbray.cli.logs import logs
from nbray.cli.machines import COMMANDS as OF_MACHINES
from nbray.cli.scaling import drain_node
from nbray.cli.slurm import slurm
from nbray.cli.start import start
from nbray.cli.state import get_command, list_command, memory, summary_command, timeline
from nbray.cli.status import status
from nbray.cli.stop import stop
from nbray.cli.symmetric_run import symmetric_run
from nbray.cli.tls import tls


@click.group()
@click.version_option(package_name="nbray")
def main() -> None:
    """A cluster for a notebook, with Ray's programming model."""


main.add_command(dashboard)
main.add_command(get_auth_token)
main.add_command(health_check)
main.add_command(slurm)
main.add_command(drain_node)
main.add_command(job)
main.add_command(kill_actor)
main.add_command(start)
main.add_command(status)
main.add_command(stop)
main.add_command(symmetric_run)
main.add_command(list_command)
main.add_command(get_command)
main.add_command(summary_command)
main.add_command(timeline)
main.add_command(memory)
main.add_command(logs)
main.add_command(tls)
for command in OF_MACHINES:
    main.add_command(command)
