"""Places that a process cuts of the block that its raylet has lent it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from nbray.common.config import Config
from nbray.object_store.client import Room
from nbray.wire import messages as m
from nbray.wire import object_messages as om

MB = 1 << 20


class Blocks(list[tuple[int, int]]):
    """Runs something in the middle of a look, as a finalizer would."""

    then: Callable[[], object] = staticmethod(lambda: None)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        then, self.then = self.then, lambda: None
        for block in super().__iter__():
            then()
            yield block


def test_a_finalizer_may_write_and_hear_of_room_in_the_middle_of_a_cut() -> None:
    sent: list[m.Message] = []
    later: list[Callable[[], None]] = []
    room = Room(Config(), sent.append, lambda _seconds, then: later.append(then))
    room._blocks = Blocks([(0, MB)])
    nested: list[int | None] = []

    def finalizer() -> None:
        nested.append(room.cut(b"inner", 1000))
        room.lent(om.BufferLent(8 * MB, MB))
        room.reclaim()

    room._blocks.then = finalizer
    found: list[int | None] = []
    thread = threading.Thread(target=lambda: found.append(room.cut(b"outer", 1000)), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for itself"
    assert found == [0] and nested == [None], "the raylet is to be asked for the other"
    assert not [one for one in sent if isinstance(one, om.ReturnBuffer)]
    begun, later[:] = later[:], []
    for then in begun:
        then()
    returned = [one for one in sent if isinstance(one, om.ReturnBuffer)]
    assert all(one.offset >= 1000 for one in returned), "what is being written is not given back"
