"""Commands and shells of a user on a machine of the cluster, and the dashboard's link."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from nbray.machines import scripts
from nbray.machines.hosts import Host, HostError

_LINK_S = 60.0


def in_cluster(host: Host, text: str) -> str:
    """A text that knows the cluster: it has ``NBRAY_ADDRESS``, ``NBRAY_PYTHON`` and ``$s``, the
    session folder of the node.
    """
    return scripts.head_variables(host.record) + text


def command(host: Host, cmd: str, *, login: bool, session: str) -> str:
    """Run a user's command there.

    Args:
        host: the machine.
        cmd: for bash.
        login: with the user's start-up files.
        session: "screen" or "tmux": in one that is named after the cluster; empty without.
    """
    text = scripts.as_user(cmd, login=login, exports={})
    name = shlex.quote(host.cluster.replace(".", "-"))  # tmux takes no dots
    if session == "tmux":
        text = f"exec tmux new-session -d -s {name} {shlex.quote(text)}"
    elif session == "screen":
        text = f"exec screen -dmS {name} sh -c {shlex.quote(text)}"
    return in_cluster(host, text)


def shell(host: Host, session: str, new: bool) -> str:
    """Open a shell there; ``session`` as for `command`, ``new``: not the one that is there."""
    name = shlex.quote(host.cluster.replace(".", "-"))
    if session == "tmux":
        text = "exec tmux new-session" if new else f"exec tmux new-session -A -s {name}"
    elif session == "screen":
        text = "exec screen" if new else f"exec screen -xRR {name}"
    else:
        text = "exec bash --login -i"
    return text


@dataclass(frozen=True)
class LoginLink:
    """A link that opens the dashboard, as the head says it."""

    url: str

    @property
    def host(self) -> str:
        """Where the dashboard listens."""
        found = urlsplit(self.url).hostname or "localhost"
        return f"[{found}]" if ":" in found else found

    @property
    def port(self) -> int:
        """Its port there."""
        return urlsplit(self.url).port or 80

    def at(self, place: str) -> str:
        """The same link at another HOST:PORT, which leads there."""
        return urlunsplit(urlsplit(self.url)._replace(netloc=place))


def login_link(head: Host) -> LoginLink:
    """Ask the head for a link.

    Raises:
        HostError: it has no dashboard, or does not run.
    """
    text = in_cluster(
        head,
        '"$NBRAY_PYTHON" -P -c "from nbray.cli import main; main()" dashboard '
        '--address "$NBRAY_ADDRESS"',
    )
    output = asyncio.run(head.do("asking for the dashboard", text, timeout_s=_LINK_S))
    for line in output.splitlines():
        if line.startswith("http"):
            return LoginLink(line.strip())
    raise HostError("asking for the dashboard", f"the head said {output.strip()!r}")
