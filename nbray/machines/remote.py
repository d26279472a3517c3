"""Commands and shells of a user on a machine of the cluster, and the dashboard's link."""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from nbray.machines import scripts
from nbray.machines.hosts import Host, HostError

_LINK_S = 60.0
_MOST_NODES = 10_000  # that a list has at most


def in_cluster(host: Host, text: str) -> str:
    """A text that knows the cluster: it has ``NBRAY_ADDRESS``, ``NBRAY_PYTHON`` and ``$s``, the
    session folder of the node.
    """
    return scripts.head_variables(host.record) + text


def command(host: Host, cmd: str, *, login: bool, session: str, inside: bool = True) -> str:
    """Run a user's command there.

    Args:
        host: the machine.
        cmd: for bash.
        login: with the user's start-up files.
        session: "screen" or "tmux": in one that is named after the cluster; empty without.
        inside: where the node runs; else on the host of its container, which knows no cluster.
    """
    known = scripts.head_variables(host.record) if inside else ""
    text = known + scripts.as_user(cmd, login=login, exports={})
    if not session:
        return text
    name = _name(host)
    # What runs there has the variables of who started the first session, perhaps of another
    # cluster: it looks itself.
    kept = scripts.kept_open(text)
    if session == "screen":
        return f"{known}exec screen -dmS {name} sh -c {shlex.quote(kept)}"
    run = shlex.quote(f"exec sh -c {shlex.quote(kept)}")
    return (
        f"{known}if tmux has-session -t ={name} 2>/dev/null; then exec tmux new-window -t ={name}: "
        f"{run}; fi\nexec tmux new-session -d -s {name} {run}"
    )


def shell(host: Host, session: str, new: bool) -> str:
    """Open a shell there; ``session`` as for `command`, ``new``: not the one that is there.

    It knows the cluster as commands do, if a node of it runs.
    """
    known = scripts.head_variables(host.record)
    known = f"if [ -L {host.record}/session ]; then\n{known}fi\n"
    opened = "exec bash --login -i"
    inner = shlex.quote(f"exec sh -c {shlex.quote(known + opened)}")
    name = _name(host)
    if session == "tmux":
        return f"exec tmux new-session {'' if new else f'-A -s {name}'} {inner}"
    if session == "screen":
        how = "" if new else f"-xRR {name}"
        return f"{known}exec screen {how}"
    return known + opened


def _name(host: Host) -> str:
    """Of its screens and tmuxes; tmux takes no dots."""
    return shlex.quote(host.cluster.replace(".", "-"))


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


def worker_addresses(head: Host) -> list[str]:
    """The addresses of all nodes that live but the head's, as the head knows them.

    Raises:
        HostError: it does not run.
    """
    text = in_cluster(
        head,
        '"$NBRAY_PYTHON" -P -c "from nbray.cli import main; main()" list nodes --format=json '
        f'--filter state=ALIVE --limit={_MOST_NODES} --address "$NBRAY_ADDRESS"',
    )
    output = asyncio.run(head.do("asking for the nodes", text, timeout_s=_LINK_S))
    try:
        rows = json.loads(output[output.index("[") :])
    except ValueError:
        raise HostError("asking for the nodes", f"the head said {output.strip()!r}") from None
    return [row["node_ip"] for row in rows if not row["is_head_node"]]


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
