"""``ray._common.usage.usage_lib``: what libraries tell of themselves is sent nowhere."""

from __future__ import annotations

from enum import Enum
from typing import Any


class TagKey(Enum):
    """Ray's list of what is told; no name of it is known here."""


def record_library_usage(library_usage: str) -> None:
    """Take the name of a library, and forget it."""


def record_extra_usage_tag(key: Any, value: str, gcs_client: Any = None) -> None:
    """Take a fact, and forget it."""


def usage_stats_enabled() -> bool:
    """Whether statistics are sent; never."""
    return False
