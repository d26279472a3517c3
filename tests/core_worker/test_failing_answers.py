"""What fails with one answer keeps those behind it from nobody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.no_threads import no_thread_left

from nbray.common.config import Config
from nbray.core_worker.identity import Identity
from nbray.core_worker.peers import Peers
from nbray.core_worker.run.replies import Replies
from nbray.core_worker.values import copying
from nbray.wire.connections import Connections
from nbray.wire.messages import TaskDone
from nbray.wire.reactor import Reactor
from nbray.wire.records import TaskSpec, Value
from nbray.wire.waiting import Waiter

ERROR = Value(b"why", None, is_error=True)


class Caller:
    """A connection to whoever has called."""

    closed = False

    def __init__(self, refuses: bytes) -> None:
        self.sent: list[TaskDone] = []
        self._refuses = refuses

    def send(self, done: TaskDone) -> None:
        if done.task_id == self._refuses and done.values != [ERROR]:
            raise MemoryError
        self.sent.append(done)


def test_a_reply_that_cannot_be_sent_is_an_error_and_those_behind_it_leave() -> None:
    none: Any = SimpleNamespace(errors=[])
    replies = Replies(none, none, none, none, none, lambda _spec, _error: [ERROR])
    first, second = (TaskSpec(name * 24, b"j", b"f", "f", b"") for name in (b"1", b"2"))
    caller = Caller(first.task_id)
    for spec in (first, second):
        replies.add(cast(Any, caller), spec, TaskDone(spec.task_id, [Value(b"x", None)], 0.0))
    replies.turn()
    assert [done.task_id for done in caller.sent] == [first.task_id, second.task_id]
    assert caller.sent[0].values == [ERROR] and not replies


def test_all_who_wait_for_a_peer_hear_of_its_end() -> None:
    reactor, config = Reactor(), Config()
    peers = Peers(Connections(reactor, b"", config), config, Identity(b"w" * 28), "")
    ended: list[object] = []
    peers.ends = cast(Any, SimpleNamespace(connection_closed=ended.append))
    peer: Any = SimpleNamespace(closed=False, state=None, send=lambda _message: None)
    waiter = Waiter()

    def fails(_reply: object) -> None:
        raise MemoryError

    message: Any = None
    peers._ask(peer, "first", message, fails)
    peers._ask(peer, "second", message, lambda _reply: waiter.complete_one())
    peers._closed(peer)
    assert waiter.remaining == 0 and ended == [peer]
    reactor.stop()


def test_a_large_value_is_copied_also_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "_core_is_idle", lambda: True)
    source, target = bytes(range(256)) * (1 << 16), bytearray(256 << 16)
    with no_thread_left():
        copying.copy_into(memoryview(target), memoryview(source))
    assert target == source
