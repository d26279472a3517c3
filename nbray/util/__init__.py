"""Helpers beside the core API, at Ray's paths.

Their modules are imported at their first use: the runtime itself has modules in this package, and
these rest on the runtime.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

_HOMES = {
    "ActorPool": "actor_pool",
    "as_completed": "iteration",
    "deregister_serializer": "serialization",
    "disable_log_once_globally": "debug",
    "get_node_ip_address": "lookup",
    "inspect_serializability": "serializability",
    "get_current_placement_group": "placement_group",
    "get_placement_group": "placement_group",
    "list_named_actors": "lookup",
    "log_once": "debug",
    "map_unordered": "iteration",
    "placement_group": "placement_group",
    "placement_group_table": "placement_group",
    "register_serializer": "serialization",
    "remove_placement_group": "placement_group",
}

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")  # a module of the package
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
