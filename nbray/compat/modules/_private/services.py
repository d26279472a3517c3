"""``ray._private.services``."""

from __future__ import annotations

import socket

from nbray.core_worker.current import find_core

__all__ = ["get_node_ip_address"]


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """The address of this node; before `init` the one from which ``address`` is reached."""
    core = find_core()
    if core is not None:
        return core.address.host
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))  # a datagram socket sends nothing by that
        except OSError:  # there is no way to it: a machine without a network
            return "127.0.0.1"
        found: str = probe.getsockname()[0]
    return found
