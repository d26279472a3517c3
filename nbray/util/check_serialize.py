"""`inspect_serializability` at Ray's path."""

from nbray.core_worker.values.serializability import inspect_serializability

__all__ = ["inspect_serializability"]
