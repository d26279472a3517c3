"""Which rows of an answer are wanted, and how a question can be wrong."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from nbray.exceptions import NbrayError

Filter = tuple[str, str, str | bool | int | float]
Row = TypeVar("Row")
MAX_LIMIT = 10_000
DEFAULT_LIMIT = 100


class StateApiException(NbrayError):
    """The state API was asked for something that it cannot answer.

    Examples:
        >>> from nbray.util.state import StateApiException, get_log
        >>> try:
        ...     list(get_log(filename="there-is-none.out"))
        ... except StateApiException as error:
        ...     print("has no log" in str(error))
        True
    """


class InvalidQueryError(StateApiException, ValueError):
    """A question that no cluster can answer: an unknown column, an impossible limit.

    Examples:
        >>> from nbray.util.state import InvalidQueryError, list_nodes
        >>> try:
        ...     list_nodes(filters=[("colour", "=", "red")])
        ... except InvalidQueryError as error:
        ...     print(str(error)[:29])
        The given filter column colou
    """


def checked(kind: type, filters: Sequence[Filter] | None) -> list[Filter]:
    """Filters with their columns as the rows have them, whatever the case of their letters.

    Raises:
        InvalidQueryError: one is no triple, a column is unknown, a predicate is not = or !=.
    """
    columns = {field.name for field in fields(kind)}
    found: list[Filter] = []
    for given in filters or ():
        if isinstance(given, str) or len(given) != 3:
            raise InvalidQueryError(
                f'A filter is a triple like ("state", "=", "ALIVE"), not {given!r}.'
            )
        key, predicate, value = given
        if str(key).lower() not in columns:
            raise InvalidQueryError(
                f"The given filter column {key} is not supported. "
                f"Supported filter columns: {', '.join(sorted(columns))}"
            )
        if predicate not in ("=", "!="):
            raise InvalidQueryError(
                f"Unsupported filter predicate {predicate} is given. Available predicates: =, !=."
            )
        found.append((key.lower(), predicate, value))
    return found


def select(
    kind: type[Row], rows: list[Row], filters: Sequence[Filter] | None, limit: int, detail: bool,
    newest: bool = False, explain: bool = False,
) -> list[Row]:  # fmt: skip
    """The rows that pass all filters, at most ``limit``, without their details unless wanted.

    Of too many, the first are taken, with ``newest`` the last; ``explain`` warns of them.

    Raises:
        InvalidQueryError: as `checked`, or the limit is impossible. TypeError: it is no number.
    """
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit is a whole number, not {limit!r:.80}.")
    if not 0 < limit <= MAX_LIMIT:
        raise InvalidQueryError(
            f"Given limit {limit} exceeds the supported limit {MAX_LIMIT}. Use a lower limit."
            if limit > 0 else f"The limit must be positive, not {limit}."
        )  # fmt: skip
    conditions = checked(kind, filters)
    passed = [row for row in rows if all(_passes(row, *f) for f in conditions)]
    kept = passed[-limit:] if newest else passed[:limit]
    if explain and len(kept) < len(passed):
        warnings.warn(
            f"{len(kept)} ({len(passed)} total) rows are returned. {len(passed) - len(kept)} "
            "entries have been truncated. Use `filters` to reduce them, or a higher `limit`.",
            stacklevel=3,
        )
    if not detail:
        hidden = [f.name for f in fields(kind) if f.metadata.get("detail")]  # type: ignore[arg-type]
        for row in kept:
            for name in hidden:
                setattr(row, name, None)
    return kept


def _passes(row: object, key: str, predicate: str, value: object) -> bool:
    """Text is compared without regard to case; for what is true, 1 will do: as in Ray."""
    known: Any = getattr(row, key)
    wanted = str(value).lower()
    if isinstance(known, bool) and wanted in ("1", "0"):
        wanted = "true" if wanted == "1" else "false"
    return (str(known).lower() == wanted) == (predicate == "=")
