"""``nbray start``: a head node, or a node that joins a cluster."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from nbray.cli.declared import declared_options
from nbray.cli.terminal import CliError
from nbray.common.addresses import is_loopback, own_address, split
from nbray.common.process import ProcessStartError
from nbray.launcher.client_port import RemoteDrivers
from nbray.launcher.dashboard import DashboardOptions
from nbray.launcher.described import NodeOptionError, NodeOptions, described
from nbray.launcher.found import node_of
from nbray.launcher.local import ClusterOptions, RunningNode, join, start_head
from nbray.launcher.record import NodeRecord
from nbray.launcher.token import load_token, token_path
from nbray.options.option import Scope
from nbray.scheduling.labels import parse_node_labels
from nbray.state.dashboard import LOGIN_S, Dashboard
from nbray.wire.tls import Tls


@click.command()
@declared_options(Scope.START)
def start(head: bool, block: bool, keep_session: bool, **options: Any) -> None:
    """Start a node on this machine."""
    if keep_session and not (head and block):
        raise click.UsageError("--keep-session needs --head and --block.")
    if not block:
        _tell(start_node(_record(), head=head, block=block, **options), head, block)
        return
    from nbray.cli.staying import hear_signals, notices_wait, stay  # it speaks to the cluster

    with notices_wait():
        node = start_node(_record(), head=head, block=block, **options)
        heard = hear_signals()
    _tell(node, head, block)
    stay(node, keep_session, heard)


def start_node(
    record: NodeRecord | None,
    *,
    head: bool,
    address: str | None,
    port: int,
    object_store_memory: int | None,
    object_spilling_directory: str | None,
    storage: str,
    session: Path | None,
    include_dashboard: bool | None,
    dashboard_host: str,
    dashboard_port: int | None,
    block: bool,
    ray_client_server_port: int | None,
    autoscaling_config: Path | None,
    for_programs: bool = True,
    **of_node: Any,
) -> RunningNode:
    """Start the node that the options of ``nbray start`` describe.

    Args:
        record: is to know the node from the first moment on.
        for_programs: `init` without an address joins it, and ``nbray stop`` ends it.
        head, block, of_node, others: see ``nbray start --help``.

    Raises:
        click.ClickException: it did not start, or the options do not fit; the text is for a person.
    """
    _refuse_password(storage)
    if session is not None and not head:
        raise click.UsageError("--session needs --head.")
    autoscaling_config = _scaling(autoscaling_config, head)
    if head == (address is not None):
        raise click.UsageError("Give either --head or --address HOST:PORT.")
    wanted = _described(
        of_node
        | {"object_store_memory": object_store_memory,
           "object_spilling_directory": object_spilling_directory}
    )  # fmt: skip
    wanted = replace(wanted, labels={**(wanted.labels or {}), **_labels_of_starter()})
    try:
        if address is None:
            return start_head(
                wanted,
                ClusterOptions(
                    port, load_token(create=True), storage, session, autoscaling_config
                ),
                dashboard=DashboardOptions(include_dashboard, dashboard_host, dashboard_port),
                remote_drivers=RemoteDrivers(ray_client_server_port),
                fate_shared=block, for_programs=for_programs, record=record,
                meanwhile=_import_console,
            )  # fmt: skip
        if wanted.host is None:
            wanted = replace(wanted, host=_own_address(address))
        return join(
            address, wanted, token=load_token(create=False), fate_shared=block,
            for_programs=for_programs, record=record, meanwhile=_import_console,
        )  # fmt: skip
    except (ProcessStartError, OSError, ValueError) as error:
        raise CliError(str(error)) from error


def _scaling(file: Path | None, head: bool) -> Path | None:
    """The file of an autoscaler, if one is needed; what is wrong with it is said at once.

    The one that `nbray up` hands the head knows more than the one that start commands name.
    """
    handed = os.environ.pop("NBRAY_AUTOSCALING_CONFIG", "")
    file = Path(handed) if handed and head else file
    if file is None:
        return None
    if not head:
        raise click.UsageError("--autoscaling-config needs --head.")
    from nbray.autoscaler.config import ScalingConfigError, read

    try:
        return file if read(file).is_needed else None
    except ScalingConfigError as error:
        raise click.BadParameter(str(error), param_hint="--autoscaling-config") from error


def _record() -> NodeRecord | None:
    """Where `nbray up` keeps which node runs here; its variables are for this command alone.

    Raises:
        CliError: the node runs already.
    """
    for name in ("NBRAY_NODE_IP_ADDRESS", "NBRAY_SESSION"):
        os.environ.pop(name, None)
    record = NodeRecord.from_environment()
    if record is not None and record.session is not None:
        node = node_of(record.session)
        if node.processes:
            raise CliError(
                f"The node of this cluster runs here already ({node.session.path}): `nbray stop` "
                "in the same list of commands ends it first."
            )
    return record


def _refuse_password(storage: str) -> None:
    """A password that comes by the command line is everybody's already; say where it belongs."""
    source = click.get_current_context().get_parameter_source("storage")
    if source is ParameterSource.COMMANDLINE and "@" in storage:
        raise click.BadParameter(
            "a command line can be read by every user of the machine: give a URL with a password "
            "in the environment variable NBRAY_STORAGE (and change this password)",
            param_hint="--storage",
        )


def _labels_of_starter() -> dict[str, str]:
    """By which the autoscaler knows a node that it, or `nbray up`, has started; for this one."""
    return parse_node_labels(os.environ.pop("NBRAY_NODE_LABELS", ""))


def _described(options: dict[str, Any]) -> NodeOptions:
    try:
        return described(options)
    except NodeOptionError as error:
        if not error.option:
            raise click.UsageError(str(error)) from error
        raise click.BadParameter(str(error), param_hint=error.option) from error


def _own_address(head: str) -> str:
    """The address of this machine from which ``head`` is reached.

    Raises:
        ValueError: ``head`` is not HOST:PORT. OSError: there is no such host, or no way to it.
    """
    try:
        return own_address(head)
    except OSError as error:
        raise OSError(f"There is no way to the head node {head}: {error}") from error


def _import_console() -> None:
    import nbray.cli.console  # noqa: F401 - what draws takes a while to import


def _tell(node: RunningNode, head: bool, block: bool) -> None:
    from nbray.cli.console import SafeConsole

    console = SafeConsole(highlight=False, soft_wrap=True)
    console.print(f"[green]Node {node.node_id[:8]} runs[/green], cluster {node.gcs_address}.")
    console.print(f"Logs: {node.session.path / 'logs'}")
    if head:
        host, _ = split(node.gcs_address)
        console.print('Use it:    import nbray; nbray.init("auto")')
        if node.dashboard:
            console.print(f"Watch it:  {_link(node)}")
        elif node.dashboard_error:
            console.print(f"[yellow]No dashboard[/yellow]: {node.dashboard_error}.")
        console.print(f"From afar: nbray.init('nbray://{node.client_server}')")
        if is_loopback(host):
            console.print(
                f"Add nodes: nbray start --address={node.gcs_address} on this machine; others "
                "cannot join: for that, give --node-ip-address."
            )
        else:
            console.print(
                f"Add nodes: nbray start --address={node.gcs_address}"
                f"  (with a copy of {token_path()}, or the same NBRAY_AUTH_TOKEN)"
            )
    if not (is_loopback(node.node_ip) or Tls.of(node.session.path)):
        console.print(
            "Mind:      nodes prove who they are, and tasks and objects travel unencrypted: "
            "whoever controls the network can read and change them. NBRAY_USE_TLS=1 on all nodes "
            "ends that."
        )
    console.print("End it:    " + ("interrupt this command" if block else "nbray stop"))


def _link(node: RunningNode) -> str:
    """Where the dashboard is; on a terminal with the key that opens it once, for minutes.

    Output that goes elsewhere is kept and read by others.
    """
    found = Dashboard(node.dashboard, node.session.path.name, node.session.token)
    if not sys.stdout.isatty():
        return f"{found.base}/  (nbray dashboard prints a link that logs you in)"
    minutes = f"{LOGIN_S / 60:.0f} minutes"
    return f"{found.login_link(time.time())}  (for {minutes}; then: nbray dashboard)"
