"""Tools for tests of programs on a cluster, shipped for users' own tests as well as nbray's.

Waits that fail with a message, a gate where tasks block, a cluster that leaves nothing behind,
connections that are cut and held up, a clock that jumps, nodes that lose their power. Nothing in
nbray imports it, and it imports pytest in `nbray.testing.fixtures` only.
"""

from nbray.testing.clock import JumpingClock
from nbray.testing.cluster import cluster, own_sessions
from nbray.testing.connections import Proxied, Proxy, cut
from nbray.testing.gate import Gate
from nbray.testing.processes import kill_node, processes_of
from nbray.testing.waits import wait_until

__all__ = [
    "Gate", "JumpingClock", "Proxied", "Proxy", "cluster", "cut", "kill_node", "own_sessions",
    "processes_of", "wait_until",
]  # fmt: skip
