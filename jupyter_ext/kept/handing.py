"""The notebook's side of keepers: it finds or makes one, and asks it for something."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from nbray.exceptions import ActorError, GetTimeoutError, NbrayError, TaskError
from nbray.notebook import ActorHandle, ObjectRef, engine

from ..words import quoted
from ..worker import keeping
from . import space
from .door import SPACE, Door, KeeperEndedError
from .orders import Drop, HandOver, Loose, Order, Stop, TakeBack, Values, Wait, refs_of
from .space import Row

_NAME = re.compile(r"[^\W\d_][\w.+=@#-]{0,99}")
_TRY_S = 10.0
_PAUSE_S = 0.25
_ANSWER_S = 10.0
_SILENT_S = 1.0


class NotKeptError(ValueError):
    """A detached cell cannot be made, or reached."""


def check_name(name: str) -> None:
    """Refuse names that could be a cell's number, an address or a file.

    Raises:
        NotKeptError: it is one.
    """
    if not _NAME.fullmatch(name) or name in ("auto", "local") or name.endswith((".yaml", ".yml")):
        raise NotKeptError(
            f"{quoted(name)} cannot name a detached cell: a name begins with a letter, goes on "
            "with letters, digits and any of ._+=@#-, and has at most 100 characters; auto, local "
            "and names of YAML files mean clusters"
        )


def hand_over(order: HandOver, reads: Sequence[str] = ()) -> None:
    """Have a keeper run a cell; returns when it hangs on this notebook no more.

    Args:
        order: the cell.
        reads: the cells that run and make what it reads, to be named when that takes time.

    Raises:
        NotKeptError: the name is taken, or the cell could not be handed over.
        KeyboardInterrupt: it took too long for somebody; the cell is taken back.
    """
    until = time.monotonic() + _TRY_S
    while True:
        try:
            asked = _own_door().ask.remote(_unopened(order))
            if not engine().api.wait([asked], timeout=_SILENT_S)[0] and _is_reading(order):
                print(_what_it_waits_for(order, reads), flush=True)
            engine().api.get(asked)
            return
        except KeyboardInterrupt:
            take_back(order.id)
            raise
        except TaskError as error:
            if not isinstance(error.cause, KeeperEndedError):
                raise NotKeptError(str(error.cause or error)) from error
            last: NbrayError = error
        except ActorError as error:
            last = error
        if time.monotonic() >= until:
            raise NotKeptError(f"the cell could not be handed over: {last}") from last
        time.sleep(_PAUSE_S)  # its keeper has ended: the next one begins when its door has gone


def _is_reading(order: HandOver) -> bool:
    """Whether something that the cell reads is not there yet: else its keeper takes the time."""
    refs = list(dict.fromkeys(refs_of(order)))
    return bool(refs) and bool(engine().api.wait(refs, num_returns=len(refs), timeout=0)[1])


def _what_it_waits_for(order: HandOver, reads: Sequence[str]) -> str:
    what = order.label if order.tied else order.name
    rest = f": {', '.join(reads)} {'run' if len(reads) > 1 else 'runs'}." if reads else "."
    return f"{what} begins when all that it reads is there{rest} An interrupt takes it back."


def take_back(cell_id: str) -> None:
    """Nobody wants a cell any more that this notebook has handed over, or is about to.

    It is forgotten, and ends first if it runs. Nobody waits for that: the order for it comes after
    that of handing over.
    """
    _own_door().ask.remote(_unopened(TakeBack(cell_id)))


def bring(order: HandOver) -> list[ObjectRef]:
    """The refs of all that a cell will return, which has been handed over; they are this job's."""
    task = engine().api.remote(num_cpus=0, max_retries=0)(keeping.bring)
    named = task.options(name=f"cell {order.label}", num_returns=order.cell.returns)
    made = named.remote(_own_door(), _unopened(Wait(order.name)))
    return made if isinstance(made, list) else [made]


def let_loose(name: str, new_name: str) -> None:
    """A cell that is tied to this notebook is detached from now on.

    Raises:
        NotKeptError: the name is taken, or the cell is not there any more.
    """
    row = space.find(name)
    if row is None or row.is_over:
        raise NotKeptError("it has ended")
    _ask(row, Loose(name, new_name))


def stop(row: Row, force: bool) -> bool:
    """Have a cell stop; whether it ran."""
    return bool(_ask(row, Stop(row.name, force)))


def drop(row: Row) -> None:
    """Forget a cell and what it made.

    Raises:
        NotKeptError: it runs.
    """
    if is_kept(row):
        try:
            _ask(row, Drop(row.name))
        except NotKeptError:
            if space.find(row.name) is not None and not row.is_over:
                raise
    space.drop(row)


def stored_values(row: Row) -> dict[str, list[ObjectRef]]:
    """The refs of the results that lie in the store.

    Raises:
        NotKeptError: they are lost with their keeper.
    """
    found: dict[str, list[ObjectRef]] = _ask(row, Values(row.name))
    return found


def is_kept(row: Row) -> bool:
    """Whether the keeper lives that has this cell."""
    name, actor_id = row.keeper
    try:
        found = engine().api.get_actor(name, namespace=SPACE)
    except ValueError:
        return False
    return bool(engine().actor_words(found)[1] == actor_id)


def _ask(row: Row, order: Order) -> Any:
    if not is_kept(row):
        raise NotKeptError(f"what kept {row.name!r} has ended")
    door = engine().api.get_actor(row.keeper[0], namespace=SPACE)
    try:
        return engine().api.get(door.ask.remote(_unopened(order)), timeout=_ANSWER_S)
    except TaskError as error:
        raise NotKeptError(str(error.cause or error)) from error
    except GetTimeoutError:
        raise NotKeptError(
            f"what keeps {row.name!r} has not answered within {_ANSWER_S:.0f} s; it goes on"
        ) from None
    except ActorError as error:
        raise NotKeptError(f"what kept {row.name!r} has ended: {error}") from error


def _unopened(order: Order) -> list[ObjectRef]:
    """The order as the door passes it on: where the door is, not all of nbray need be."""
    return [engine().api.put(order)]


def _own_door() -> ActorHandle:
    api = engine().api
    namespace = api.get_runtime_context().namespace
    made = api.remote(Door).options(
        name=f"keeper of {namespace}", namespace=SPACE, lifetime="detached", get_if_exists=True,
        num_cpus=0, max_concurrency=10_000, scheduling_strategy=engine().near_head(),
    )  # fmt: skip
    return made.remote(engine().name, namespace)
