"""``nbray check-open-ports``: where the nodes of this machine listen, and who could reach that."""

from __future__ import annotations

import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
import psutil

from nbray.cli.state import print_table
from nbray.cli.terminal import CliError, say
from nbray.launcher.found import FoundNode, found_nodes

_ANSWER_S = 30.0
_LARGEST_ANSWER = 1 << 20


@dataclass(frozen=True)
class _Port:
    """A port on which a process of a node listens."""

    cluster: str
    process: str
    pid: int
    address: str
    port: int
    is_ours: bool

    @property
    def reach(self) -> str:
        """Who may connect."""
        address = ipaddress.ip_address(self.address)
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback:
            return "this machine only"
        if address.is_unspecified:
            return "every network of this machine"
        if address.is_private:
            return "a private network"
        return "a public address"

    @property
    def asks(self) -> str:
        """What nbray's own ports ask for."""
        return "the cluster's token" if self.is_ours else "not nbray's: a program's own"


@click.command("check-open-ports")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before --service-url is asked.")
@click.option("--service-url", help="A service that tries the ports from outside, as Ray's; "
              "without, nobody outside of this machine is asked.")  # fmt: skip
def check_open_ports(yes: bool, service_url: str | None) -> None:
    """List the ports on which the nodes of this machine listen, and from where they are reached."""
    nodes = [node for node in found_nodes() if node.processes]
    if not nodes:
        raise CliError("No node runs here. Start one with: nbray start --head")
    ports = sorted(
        {port for node in nodes for port in _ports_of(node)},
        key=lambda port: (port.cluster, not port.is_ours, port.port),
    )
    rows = [
        [port.cluster, port.process, port.pid, f"{port.address}:{port.port}", port.reach, port.asks]
        for port in ports
    ]
    print_table(["cluster", "process", "pid", "listens at", "reached from", "asks for"], rows)
    beyond = [port for port in ports if port.reach != "this machine only"]
    if beyond:
        named = ", ".join(str(port.port) for port in beyond)
        say(
            f"{len(beyond)} of {len(ports)} may be reached from other machines ({named}) unless a "
            "firewall is before them. Open none of them to the internet: docs/security.md."
        )
    else:
        say("None of them can be reached from another machine.")
    if service_url is not None:
        _ask_outside(service_url, sorted({port.port for port in beyond or ports}), yes)


def _ports_of(node: FoundNode) -> Iterator[_Port]:
    for daemon in node.processes:
        try:
            family = [daemon, *daemon.children(recursive=True)]
        except psutil.Error:
            continue
        for process in family:
            try:
                module = _module_of(process.cmdline())
                connections = process.net_connections(kind="tcp")
            except psutil.Error:  # it has just ended, or is another user's
                continue
            for one in connections:
                if one.status == psutil.CONN_LISTEN:
                    name = module or process.name()
                    yield _Port(
                        node.gcs_address, name, process.pid, one.laddr.ip, one.laddr.port,
                        bool(module),
                    )  # fmt: skip


def _module_of(words: Sequence[str]) -> str:
    """The module of nbray that a process runs, if it does."""
    return next((word for word in words if word.startswith("nbray.")), "")


def _ask_outside(url: str, ports: Sequence[int], yes: bool) -> None:
    """Have a service try the ports; the protocol is that of Ray's service."""
    if not yes and not click.confirm(f"Tell {url} these ports, and have it try them?"):
        raise CliError("Nobody was asked.")
    request = urllib.request.Request(
        url, json.dumps({"ports": list(ports)}).encode(), method="POST",
        headers={"Content-Type": "application/json", "X-Ray-Open-Port-Check": "1"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
            found = json.loads(answer.read(_LARGEST_ANSWER))
            open_ports, tried = list(found["open_ports"]), list(found["checked_ports"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CliError(f"{url} did not tell: {error}") from error
    if open_ports:
        raise CliError(
            f"From outside, {url} reached the ports {open_ports}: close them by a firewall. "
            "What listens there asks for the token, and does not belong on the internet."
        )
    say(f"From outside, {url} reached none of {tried}.")
