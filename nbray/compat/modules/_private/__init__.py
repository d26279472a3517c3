"""What others import from ``ray._private``: each module has what is asked for, and no more."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nbray.compat.missing import missing_name


def __getattr__(name: str) -> Any:
    if name.startswith("__") or find_spec(f"{__name__}.{name}") is None:
        raise missing_name("ray._private", name)
    return import_module(f"{__name__}.{name}")
