"""``nbray tls``: an authority of one's own, and certificates for nodes."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path

import click

from nbray.cli.terminal import CliError, say
from nbray.launcher.tls import TlsFiles
from nbray.wire.certificates import Authority

_DAYS = 365
_FOLDER = Path("~/.nbray/tls")


@click.group()
def tls() -> None:
    """Certificates for clusters whose nodes are to show some.

    Without any, NBRAY_USE_TLS=1 is enough: nodes show certificates that the cluster's token signs.
    """


@tls.command()
@click.argument("hosts", nargs=-1)
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path),
              default=_FOLDER, show_default=True, help="Where they are kept.")  # fmt: skip
@click.option("--days", type=click.IntRange(1, 3650), default=_DAYS, show_default=True,
              help="How long the nodes' certificate holds.")  # fmt: skip
def init(hosts: tuple[str, ...], folder: Path, days: int) -> None:
    """Make an authority, once, and a certificate for nodes, each time.

    HOSTS are names and addresses by which browsers reach a dashboard; nodes need none, they know
    each other by the name "nbray" in the certificate and by the token.
    """
    folder = folder.expanduser()
    own = {"localhost", "127.0.0.1", "::1", socket.gethostname()}
    try:
        authority = Authority.of(folder)
        authority.sign([*hosts, *sorted(own)], days).write(folder, "node")
        files = TlsFiles(folder / "node.crt", folder / "node.key", folder / "ca.crt")
        files.check()
    except (OSError, ValueError) as error:
        raise CliError(f"No certificate was made in {folder}: {error}") from error
    say(f"Authority:   {files.authority}; its key ca.key is needed by no node", err=True)
    say(f"Certificate: {files.certificate}, with node.key, for {days} days", err=True)
    say("On each node, with copies of ca.crt, node.crt and node.key:", err=True)
    for name, value in (
        ("USE_TLS", "1"), ("TLS_SERVER_CERT", files.certificate),
        ("TLS_SERVER_KEY", files.key), ("TLS_CA_CERT", files.authority),
    ):  # fmt: skip
        say(f"export NBRAY_{name}={shlex.quote(str(value))}")
    say(f"Or in the file of nbray up, which spreads them:  tls: {folder}", err=True)
