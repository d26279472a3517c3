"""What this process knows of its own refs and tasks, without asking anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from nbray.common.ids import TaskID
from nbray.core_worker.current import joined_core
from nbray.core_worker.values.value_kind import kind_in
from nbray.exceptions import GetTimeoutError
from nbray.object_ref import ObjectRef

_TURN_S = 5.0


@dataclass(frozen=True)
class RefFacts:
    """One ref at one moment.

    Attributes:
        state: ``pending``, ``ready``, ``failed``, or ``unknown`` in this process.
        size: bytes of its value, None while that is not known.
        inline: whether the value is small and in this process, not in an object store.
        nodes: the ids of the nodes that hold it.
        kind: what the value is, in a few words, as far as that shows without opening it.
        origin: the driver's number for what made it (see `nbray.driver.output`), 0 for none.
    """

    state: str
    size: int | None = None
    inline: bool = False
    nodes: tuple[bytes, ...] = ()
    kind: str = ""
    origin: int = 0


def describe(ref: ObjectRef) -> RefFacts:
    """State, size and place of a ref's value; fetches nothing."""
    entry = joined_core().table.get(ref.binary())
    origin = ref._kin.origin
    if entry is None:
        return RefFacts("unknown", origin=origin)
    value = entry.value
    if value is None:
        return RefFacts("pending", origin=origin)
    state = "failed" if value.is_error else "ready"
    if value.stored is not None:
        return RefFacts(
            state, value.stored.size, False, tuple(value.stored.node_ids), value.stored.kind, origin
        )
    data = value.inline or b""
    return RefFacts(state, len(data), True, (), kind_in(data), origin)


def when_ended(refs: Sequence[ObjectRef], then: Callable[[], None]) -> None:
    """Call ``then`` once, when all values of this process's refs, or their errors, are there.

    ``then`` runs on the thread that drives the sockets: it must return at once.
    """
    core = joined_core()
    left = len(refs)

    def ended() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    def enlist() -> None:
        for ref in refs:
            entry = core.table.get(ref.binary())
            if entry is None:
                ended()  # what nobody can wait for
            else:
                entry.when_complete(ended)

    core.reactor.post(enlist)


def unfinished_tasks() -> list[TaskID]:
    """The tasks and calls of this process whose results are not there yet."""
    return [TaskID(task_id) for task_id in joined_core().unfinished_tasks()]


def unfinished_of(origin: int) -> list[TaskID]:
    """Those of them with this origin (see `nbray.driver.output`), whichever thread made them.

    Raises:
        GetTimeoutError: whoever drives the sockets has not come to it within some seconds.
    """
    core = joined_core()
    found: Future[list[TaskID]] = Future()

    def look() -> None:
        specs = [work.spec for work in core.unfinished_work()]
        found.set_result([TaskID(spec.task_id) for spec in specs if spec.origin == origin])

    # A timer comes after this turn's new tasks have been taken over, posted work before.
    core.later(0.0, look)
    try:
        return found.result(_TURN_S)
    except TimeoutError:
        raise GetTimeoutError("The tasks of this process could not be looked at.") from None


def cancel_tasks(tasks: Iterable[TaskID], *, force: bool = False) -> None:
    """Cancel each of these tasks of this process and its children.

    Unlike `nbray.cancel`, this raises KeyboardInterrupt also in the method that runs in an actor's
    main thread, as an interrupt of a program does. ``force`` does not end actors.
    """
    core = joined_core()
    for task in tasks:
        core.cancelling.interrupt(task.binary(), force)


def session_dir() -> Path:
    """The folder of this node's sockets and logs."""
    return joined_core().session.path
