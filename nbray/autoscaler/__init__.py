"""The autoscaler: a process on the head that lets a cluster grow and shrink with its demand.

It imports `nbray.machines` and `nbray.launcher`, since its providers start nodes, and what lies
below them; of a cluster it knows what the GCS answers. Nothing of a running cluster imports it:
the launcher starts ``python -m nbray.autoscaler`` by name. `sdk` is its face for programs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "sdk":  # programs for Ray use it without importing it
        return import_module(f"{__name__}.sdk")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
