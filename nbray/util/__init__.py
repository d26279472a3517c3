"""What Ray has at ``ray.util``: libraries over the public API, and faces of what lives elsewhere.

Nothing in nbray imports this package. Its modules are imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what the names are, for type checkers and the reference
    from nbray.core_worker.values.serializability import inspect_serializability
    from nbray.driver.lookup import (
        get_node_instance_id,
        get_node_ip_address,
        list_named_actors,
    )
    from nbray.util.actor_pool import ActorPool
    from nbray.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
    from nbray.util.iteration import as_completed, map_unordered
    from nbray.util.placement_group import (
        get_current_placement_group,
        get_placement_group,
        placement_group_table,
        remove_placement_group,
    )
    from nbray.util.serialization import deregister_serializer, register_serializer

_HOMES = {
    "ActorPool": "nbray.util.actor_pool",
    "as_completed": "nbray.util.iteration",
    "deregister_serializer": "nbray.util.serialization",
    "disable_log_once_globally": "nbray.util.debug",
    "enable_periodic_logging": "nbray.util.debug",
    "get_node_instance_id": "nbray.driver.lookup",
    "get_node_ip_address": "nbray.driver.lookup",
    "inspect_serializability": "nbray.core_worker.values.serializability",
    "get_current_placement_group": "nbray.util.placement_group",
    "get_placement_group": "nbray.util.placement_group",
    "list_named_actors": "nbray.driver.lookup",
    "log_once": "nbray.util.debug",
    "map_unordered": "nbray.util.iteration",
    "placement_group": "nbray.util.placement_group",
    "placement_group_table": "nbray.util.placement_group",
    "register_serializer": "nbray.util.serialization",
    "remove_placement_group": "nbray.util.placement_group",
}

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_instance_id",
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
    return getattr(import_module(_HOMES[name]), name)
