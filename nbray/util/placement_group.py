"""Placement groups, at Ray's path.

The module can be called, as `placement_group` itself: Ray has both at ``util.placement_group``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from nbray.calls.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


class _Callable(ModuleType):
    def __call__(self, /, *args: Any, **kwargs: Any) -> PlacementGroup:
        return placement_group(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Functions that use it take it along, by its name, as other modules."""
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Callable
