"""A task with its attempts, those that it submitted or that take its results, as far as known."""

from __future__ import annotations

from nbray.state import queries as q
from nbray.state.rows import TaskState

from .cluster import TASK_LIMIT
from .html import DOTS, is_short_for
from .page import Look, NotFoundError, find
from .tree import newest

_MOST_CHILDREN = 1000
_MOST_ABOVE = 12
_FRESH_S = 3.0


async def attempts_of(
    look: Look, said: str
) -> tuple[list[TaskState], list[TaskState], list[TaskState]]:
    """The attempts at the task, the tasks that it has submitted, and those that take its results.

    Raises:
        NotFoundError: no such task is remembered.
    """
    said = said.lower()
    first = said.partition(DOTS)[0]
    try:
        of = bytes.fromhex(first[: len(first) // 2 * 2])
    except ValueError:
        of = b""
    if len(of) < 2:
        raise NotFoundError(f"{said!r} is not the id of a task, nor the beginning of one.")
    found = await look.cluster.ask(q.tasks(TASK_LIMIT, of=of))
    mine = [row for row in found.rows if is_short_for(said, row.task_id)]
    meant = said if DOTS not in said or not mine else mine[0].task_id
    task = find(mine, meant, "task", lambda row: row.task_id)
    children = [row for row in found.rows if row.parent_task_id == task.task_id]
    takers = [row for row in found.rows if task.task_id in row.depends_on]
    attempts = [row for row in mine if row.task_id == task.task_id]
    attempts.sort(key=lambda row: -row.attempt_number)
    return attempts, children[:_MOST_CHILDREN], newest(takers)[:_MOST_CHILDREN]


async def above(look: Look, task: TaskState) -> list[TaskState]:
    """The tasks that submitted a task, the outermost first, as far as they are remembered."""
    found: list[TaskState] = []
    parent = task.parent_task_id
    while parent and len(found) < _MOST_ABOVE:
        rows = (await look.cluster.ask(q.tasks(1, of=bytes.fromhex(parent)), _FRESH_S)).rows
        row = next((row for row in rows if row.task_id == parent), None)
        if row is None:
            break
        found.insert(0, row)
        parent = row.parent_task_id
    return found
