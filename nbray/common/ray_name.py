"""Whether this program imports nbray by Ray's name, without what answers to it: `nbray.compat`."""

from __future__ import annotations

import sys
from importlib import import_module


def is_installed() -> bool:
    """Whether ``import ray`` gives nbray in this process."""
    compat = sys.modules.get("nbray.compat")
    return compat is not None and bool(compat.is_installed())


def install() -> None:
    """Have ``import ray`` give nbray; see `nbray.compat.install`."""
    import_module("nbray.compat").install()
