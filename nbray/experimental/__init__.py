"""What Ray has under ``ray.experimental``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # what the names are, for type checkers and the reference
    from nbray.experimental.locations import get_local_object_locations, get_object_locations


def set_resource(resource_name: str, capacity: float, node_id: str | None = None) -> NoReturn:
    """Raise what Ray raises: the resources of a node are what it was started with.

    Args:
        resource_name: has no effect, as the others.
        capacity: see above.
        node_id: see above.

    Raises:
        DeprecationWarning: always.

    Examples:
        >>> from nbray.experimental import set_resource
        >>> try:
        ...     set_resource("disk", 2)
        ... except DeprecationWarning as warning:
        ...     print(str(warning)[:41])
        Dynamic custom resources are deprecated.
    """
    raise DeprecationWarning(
        f"Dynamic custom resources are deprecated. Start the node with {resource_name!r} among its "
        "resources, or reserve what it has by a placement group."
    )


_HOMES = {"get_local_object_locations": "locations", "get_object_locations": "locations"}

__all__ = ["get_local_object_locations", "get_object_locations"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in ("internal_kv", "locations", "tqdm_ray"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
