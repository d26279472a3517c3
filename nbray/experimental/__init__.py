"""What Ray has under ``ray.experimental``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what the names are, for type checkers and the reference
    from nbray.experimental.locations import get_local_object_locations, get_object_locations

_HOMES = {"get_local_object_locations": "locations", "get_object_locations": "locations"}

__all__ = ["get_local_object_locations", "get_object_locations"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in ("internal_kv", "locations", "tqdm_ray"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
