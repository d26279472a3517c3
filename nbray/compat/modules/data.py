"""``ray.data``: nbray has no such library; what others import before they need it can be imported.

Modin imports these functions for its conversions from and to Ray Data.
"""

from __future__ import annotations

from typing import Any, NoReturn

from nbray.compat.missing import what_instead


class Dataset:
    """A name for annotations and `isinstance`; nothing makes one."""


def _refused(name: str) -> NoReturn:
    raise NotImplementedError(f"ray.data.{name}: {what_instead('data')}")


def from_pandas_refs(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Raises NotImplementedError: there is no Ray Data."""
    _refused("from_pandas_refs")


def from_pandas(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Raises NotImplementedError: there is no Ray Data."""
    _refused("from_pandas")


def from_arrow_refs(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Raises NotImplementedError: there is no Ray Data."""
    _refused("from_arrow_refs")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(f"module 'ray.data' has no attribute {name!r}: {what_instead('data')}")
