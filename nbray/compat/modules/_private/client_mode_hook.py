"""``ray._private.client_mode_hook``: a program is never a client here, so nothing is hooked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def client_mode_hook(function: Callable[..., Any] | None = None, **_options: Any) -> Any:
    """The function as it is."""
    return (lambda given: given) if function is None else function


def client_mode_should_convert() -> bool:
    """Whether calls are to go through a client; never."""
    return False


client_mode_wrap = client_mode_hook


@contextmanager
def disable_client_hook() -> Iterator[None]:
    """A block in which no client is used, as everywhere."""
    yield
