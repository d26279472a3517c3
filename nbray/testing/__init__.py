"""Tools for tests of programs on a cluster: waits, and ways to end parts of it."""

from nbray.testing.processes import kill_node, processes_of
from nbray.testing.waits import wait_until

__all__ = ["kill_node", "processes_of", "wait_until"]
