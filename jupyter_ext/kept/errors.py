"""What a detached cell raised, as it is kept: whole if it is small, else with its texts cut.

An exception may hold anything; the GCS keeps no 50 MB of it. What a notebook raises that attaches
is of the user's class all the same, as long as the class takes its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbray import cloudpickle
from nbray.common.text import without_middle
from nbray.exceptions import TaskError

_MOST_BYTES = 1_000_000
_MOST_MEMBERS = 10


def pickled_error(error: BaseException) -> bytes:
    """The pickle of an exception, or of the one of its class that is like it and small enough."""
    for candidate in _candidates(error):
        try:
            data: bytes = cloudpickle.dumps(candidate)
        except Exception:  # the code of the user's class
            continue
        if len(data) <= _MOST_BYTES:
            return data
    plain: bytes = cloudpickle.dumps(RuntimeError(without_middle(str(error))))
    return plain


def _candidates(error: BaseException) -> Iterator[BaseException]:
    yield error
    if not isinstance(error, TaskError):
        if (cut := _cut(error)) is not None:
            yield cut
        return
    told = error.alone()  # the user's class may have attributes of these names
    causes = [None] if told.cause is None else [_cut(told.cause), None]
    for cause in causes:
        made = TaskError(
            told.function_name, without_middle(told.traceback_str), cause,
            told.pid, told.ip, told.actor_repr, told.actor_id,
        )  # fmt: skip
        made.tasks = told.tasks
        yield made.as_instanceof_cause()


def _cut(error: BaseException) -> BaseException | None:
    """An exception of this class with short texts; None if there can be none."""
    try:
        if isinstance(error, BaseExceptionGroup):
            members = [_cut(member) for member in error.exceptions[:_MOST_MEMBERS]]
            found = [member for member in members if member is not None]
            return type(error)(without_middle(error.message), found)
        made = type(error).__new__(type(error), *map(_short, error.args))
        made.__dict__.update({name: _short(value) for name, value in vars(error).items()})
        str(made)
    except Exception:  # the code of the user's class
        return None
    return made


def _short(value: Any) -> Any:
    return without_middle(value) if isinstance(value, str) else value
