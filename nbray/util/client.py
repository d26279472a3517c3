"""What libraries ask Ray's client for: a program is never connected through one here.

A driver joins a cluster by ``nbray.init(address=...)``; the client server is still to come.
"""

from __future__ import annotations


class _Client:
    """Ray's stub of its API in a client program."""

    def is_connected(self) -> bool:
        """Whether this program is a client; never."""
        return False


ray = _Client()


def num_connected_contexts() -> int:
    """How many clusters this program is a client of; none.

    Returns:
        0.

    Examples:
        >>> from nbray.util.client import num_connected_contexts
        >>> num_connected_contexts()
        0
    """
    return 0
