"""This machine as a host of a cluster, where the command runs on it: no ssh, and else the same."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from nbray.common.addresses import interface_address, own_address
from nbray.machines.ssh import Done

# In which cluster a program is, and which node it starts: that is of whoever typed the command.
_NOT_INHERITED = (
    "NBRAY_ADDRESS", "RAY_ADDRESS", "NBRAY_AUTH_TOKEN", "NBRAY_AUTH_TOKEN_PATH", "NBRAY_SESSION",
    "NBRAY_NODE_RECORD", "NBRAY_NODE_IP_ADDRESS", "NBRAY_NODE_LABELS", "NBRAY_AUTOSCALING_CONFIG",
    "SSH_CONNECTION",
)  # fmt: skip
_NOBODY = "192.0.2.1:9"


@dataclass(frozen=True)
class Here:
    """Takes the place of `Ssh`."""

    def command(self, _host: str, text: str, *, tty: bool = False) -> list[str]:
        """Run a text for POSIX sh; it has the terminal, if there is one."""
        return ["sh", "-c", f"unset {' '.join(_NOT_INHERITED)}\n{text}"]

    def forward(
        self, host: str, text: str, _ports: Sequence[tuple[int, str]], tty: bool
    ) -> list[str]:
        """The same: whoever is here reaches the ports already."""
        return self.command(host, text, tty=tty)

    def at(self, _host: str, path: str) -> str:
        """A path, for rsync."""
        return os.path.expanduser(path)

    def rsh(self) -> str:
        """No remote shell is needed."""
        return "false"

    def end_connection(self, _host: str) -> list[str]:
        """There is none."""
        return ["true"]

    def was_turned_away(self, _done: Done) -> bool:
        """Never."""
        return False

    def explain(self, _host: str, _done: Done) -> str:
        """What failed is the command."""
        return ""


def name() -> str:
    """What this machine is called among those that share a home with it."""
    return socket.gethostname()


def address(interface: str | None) -> str:
    """The address at which other machines reach this one: on an interface, if it has it.

    Raises:
        OSError: there is no way out of this machine.
    """
    if interface is not None:
        try:
            return interface_address(interface)
        except ValueError:
            pass  # login nodes may be outside of the fast network
    return own_address(_NOBODY)
