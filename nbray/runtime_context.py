"""`get_runtime_context`, at Ray's path."""

from nbray.calls.runtime_context import (
    RuntimeContext,
    get_gpu_ids,
    get_runtime_context,
)

__all__ = [
    "RuntimeContext",
    "get_gpu_ids",
    "get_runtime_context",
]
