"""What nbray can use besides its dependencies, and how it is installed."""

from __future__ import annotations

from typing import Literal

Extra = Literal["notebook", "profile", "ray", "redis"]
"""Those of pyproject's optional dependencies that a message names."""


def how_to_install(extra: Extra) -> str:
    """A line for a shell, and where: nbray is installed from its repository, as its README says.

    Example:
        >>> how_to_install("redis")
        "pip install '.[redis]' in a clone of nbray's repository"
    """
    return f"pip install '.[{extra}]' in a clone of nbray's repository"
