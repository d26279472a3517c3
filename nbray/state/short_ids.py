"""Ids as people write them: whole, or as they begin, which is what tables and messages show."""

from __future__ import annotations

from collections.abc import Iterable

from nbray.common.ids import BaseID
from nbray.state.selecting import StateApiException

SHORTEST = 4
"""How many characters an id has at least that is written short."""
_MOST_NAMED = 5


def written_id(text: str, kind: type[BaseID]) -> str:
    """An id, or the beginning of one.

    Raises:
        StateApiException: it is neither.
    """
    if not isinstance(text, str):
        raise StateApiException(
            f"An id is a text of hexadecimal digits, not {type(text).__name__}."
        )
    text, digits = text.lower(), 2 * kind.SIZE
    if not SHORTEST <= len(text) <= digits or set(text) - set("0123456789abcdef"):
        raise StateApiException(
            f"{text!r} is not the id of such a thing, which has {digits} hexadecimal digits, "
            f"nor the first {SHORTEST} or more of them."
        )
    return text


def full_id(written: str, known: Iterable[str]) -> str | None:
    """The id among ``known`` that is meant; None if there is none.

    Raises:
        StateApiException: several begin like that.
    """
    found = sorted({one for one in known if one.startswith(written)})
    if len(found) > 1:
        named = ", ".join(found[:_MOST_NAMED]) + (", ..." if len(found) > _MOST_NAMED else "")
        raise StateApiException(
            f"{written!r} is the beginning of {len(found)} ids: {named}. Write more of the one "
            "that you mean."
        )
    return found[0] if found else None
