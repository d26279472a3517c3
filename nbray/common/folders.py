"""The current folder, which may have been removed while a program stands in it."""

from __future__ import annotations

import os


def current_folder() -> str:
    """Where this process stands; "" if that folder was removed, where `os.getcwd` fails."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def absolute(path: str | os.PathLike[str], what: str) -> str:
    """``path`` from the root, as `os.path.abspath` has it.

    Raises:
        ValueError: it is relative to a folder that was removed; ``what`` names it in the text.
    """
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise ValueError(
            f"{what} {os.fspath(path)!r} is relative to the current folder, which was removed: "
            "say it from the root, or change into a folder that is there."
        ) from None
