"""``nbray dashboard``: the link to a cluster's dashboard."""

from __future__ import annotations

import time
from pathlib import Path

import click

from nbray.cli.heads import forward_dashboard
from nbray.cli.terminal import CliError, say
from nbray.state.client import find_cluster, find_dashboard
from nbray.state.dashboard import LOGIN_S, api_key
from nbray.wire.grpc_service import RpcError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("-p", "--port", type=click.IntRange(1, 65535), default=8265, show_default=True,
              help="With FILE: the port of this machine.")  # fmt: skip
@click.option("--remote-port", type=click.IntRange(1, 65535), help="With FILE: the head's port, if "
              "it is not the one that the head names.")  # fmt: skip
@click.option("-n", "--cluster-name", help="With FILE: instead of its cluster_name.")
@click.option("--address", help="HOST:PORT of the head node; the newest cluster here by default.")
@click.option("--log-out", is_flag=True, help="Log all browsers out; links no longer hold.")
@click.option("--api-key", "show_key", is_flag=True, help="Print the key for programs that read.")
def dashboard(
    address: str | None, log_out: bool, show_key: bool, file: Path | None, port: int,
    remote_port: int | None, cluster_name: str | None,
) -> None:  # fmt: skip
    """Print a link that opens a cluster's dashboard in a browser.

    With FILE, of `nbray up`, a port of this machine leads to the head's until it is interrupted.
    """
    if file is not None:
        forward_dashboard(file=file, port=port, remote_port=remote_port, cluster_name=cluster_name)
        return
    try:
        cluster, token = find_cluster(address)
        found = find_dashboard(cluster, token)
    except (RpcError, OSError, ValueError) as error:
        raise CliError(str(error)) from error
    if found is None:
        raise CliError(
            f"Cluster {cluster} has no dashboard: it was left out, or it failed (see nbray status)."
        )
    if show_key:
        say(api_key(token))
        return
    if log_out:
        try:
            found.ask("POST", "/logout")
        except OSError as error:
            raise CliError(f"The dashboard was not told: {error}") from error
        say("All browsers are logged out.")
        return
    say(found.login_link(time.time()))
    say(f"The link logs one browser in, within {LOGIN_S / 60:.0f} minutes.", err=True)
