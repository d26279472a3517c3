"""``ray._private.auto_init_hook``: the first use of the API starts a cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from nbray.driver.driver import current_core


def auto_init_ray() -> None:
    """Start or join a cluster if this program is in none."""
    current_core()


def wrap_auto_init(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, before which `auto_init_ray` is called."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        auto_init_ray()
        return function(*args, **kwargs)

    return call
