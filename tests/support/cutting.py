"""Where this process is reached, for those that cut its connections."""

from __future__ import annotations

from nbray.core_worker.current import find_core


def my_port() -> int:
    """The TCP port at which this driver or worker listens."""
    core = find_core()
    assert core is not None
    return core.peers.address.port
