"""`RemoteFunction`, at Ray's path."""

from nbray.calls.remote_function import (
    RemoteFunction,
)

__all__ = [
    "RemoteFunction",
]
