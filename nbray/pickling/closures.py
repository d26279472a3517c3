"""What a function closes over."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any


def bound_cells(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The names and values of a function's closure, without those that are not bound yet."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # the enclosing function has not bound it yet
            continue


def read_globals(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The names and values of the globals that a function's own code names."""
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]
