"""The one place that knows this process's runtime."""

from __future__ import annotations

from nbray.core_worker.core import CoreWorker

_current: CoreWorker | None = None


def find_core() -> CoreWorker | None:
    """The runtime, or None before `init` and after `shutdown`."""
    return _current


def set_core(core: CoreWorker | None) -> None:
    """Make ``core`` this process's runtime."""
    global _current
    _current = core
