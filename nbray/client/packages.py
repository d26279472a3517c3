"""Versions of packages that values of one side are unpickled by on the other."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

_COMPARED = (
    "cloudpickle", "numpy", "pandas", "polars", "pyarrow", "scikit-learn", "scipy", "torch",
    "xgboost",
)  # fmt: skip


def own_packages() -> dict[str, str]:
    """Those of this process that are compared, by name."""
    found = {}
    for name in _COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def different(theirs: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """Ours of those that the other side has, too, in another version."""
    return {name: ours[name] for name in theirs if name in ours and ours[name] != theirs[name]}
