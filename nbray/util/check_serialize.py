"""`inspect_serializability` at Ray's path."""

from nbray.core_worker.values.serializability import FailureTuple, inspect_serializability

__all__ = ["FailureTuple", "inspect_serializability"]
