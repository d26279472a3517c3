"""Where the checkout is, and whether it is what is tested."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import nbray

ROOT = Path(__file__).parents[2]


def is_installed() -> bool:
    """Whether the nbray that is tested came out of a wheel, and not out of the checkout."""
    return Path(nbray.__file__).is_relative_to(sysconfig.get_path("purelib"))
