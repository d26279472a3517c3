"""Keywords of Ray's that have no meaning here: they are taken, and told of once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

logger = logging.getLogger(__name__)

_told: set[str] = set()


def ignore(where: str, names: Iterable[str]) -> None:
    """Say at debug level, once in a process, which keywords of ``where`` have no effect."""
    new = [name for name in names if f"{where} {name}" not in _told]
    if new:
        _told.update(f"{where} {name}" for name in new)
        logger.debug(
            "%s takes %s for Ray's sake; nbray has nothing that it could change.",
            where, ", ".join(new),
        )  # fmt: skip
