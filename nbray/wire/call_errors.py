"""How a call between nodes fails, for all of its ways."""

from __future__ import annotations

CLOSED = "the connection was closed here, as to a node that is dead"


class RpcError(Exception):
    """A call between nodes failed; the text names the method, the address and the cause."""


class RefusedError(RpcError):
    """The other side is there, and does not take this one in: another token, or version."""
