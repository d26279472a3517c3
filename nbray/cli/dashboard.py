"""``nbray dashboard``: the link to a cluster's dashboard."""

from __future__ import annotations

import time

import click

from nbray.cli.terminal import CliError, say
from nbray.state.client import dashboard_url, find_cluster
from nbray.state.dashboard import LOGIN_S, login_link
from nbray.wire.grpc_service import RpcError


@click.command()
@click.option("--address", help="HOST:PORT of the head node; the newest cluster here by default.")
def dashboard(address: str | None) -> None:
    """Print a link that opens a cluster's dashboard in a browser."""
    try:
        found, token = find_cluster(address)
        url = dashboard_url(found, token)
    except (RpcError, OSError, ValueError) as error:
        raise CliError(str(error)) from error
    if not url:
        raise CliError(
            f"Cluster {found} has no dashboard: it was left out, or it failed (see nbray status)."
        )
    say(login_link(url, token, time.time()))
    say(f"The link logs one browser in, within {LOGIN_S / 60:.0f} minutes.", err=True)
