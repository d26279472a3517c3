"""`inspect_serializability` at Ray's path."""

from nbray.util.serializability import inspect_serializability

__all__ = ["inspect_serializability"]
