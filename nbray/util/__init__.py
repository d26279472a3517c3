"""Helpers beside the core API, at Ray's paths.

Their modules are imported at their first use: the runtime itself has modules in this package, and
these rest on the runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ActorPool": "actor_pool",
    "as_completed": "iteration",
    "inspect_serializability": "serializability",
    "map_unordered": "iteration",
}

__all__ = ["ActorPool", "as_completed", "inspect_serializability", "map_unordered"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
