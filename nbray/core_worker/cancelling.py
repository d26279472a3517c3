"""How work is stopped: by whoever submitted it, wherever it is queued or runs.

A task's owner knows where it is, so a borrower asks the owner; a queued task is forgotten there,
and one that runs is stopped by its worker, with what it has submitted itself. A worker notes what
was cancelled, since the word may come before the task does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nbray.core_worker.decisions import Decisions, ToWorker
from nbray.core_worker.own.counting import Counting
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.ports import Inbox, Mail
from nbray.core_worker.submit.calls import ActorCalls
from nbray.core_worker.submit.leasing import Leasing
from nbray.core_worker.values.blocking import Waits
from nbray.wire import messages as m
from nbray.wire.waiting import Waiter

_NOTED = 1000


class Turns(Inbox, Waits, Protocol):
    """Work for the holder of the baton, and waits for it."""


class Cancelling:
    """The cancellations of one process.

    Attributes:
        noted: the tasks that this worker was told of, the newest last.
    """

    def __init__(
        self, turns: Turns, mail: Mail, table: OwnershipTable, counting: Counting, leasing: Leasing,
        calls: ActorCalls, decisions: Decisions, take_new: Callable[[], None],
    ) -> None:  # fmt: skip
        """``take_new`` takes over what was submitted since the last turn."""
        self.noted: dict[bytes, None] = {}
        self._turns = turns
        self._mail = mail
        self._table = table
        self._counting = counting
        self._leasing = leasing
        self._calls = calls
        self._decisions = decisions
        self._take_new = take_new

    # --- any thread --------------------

    def cancel(self, object_id: bytes, force: bool, recursive: bool = True) -> None:
        """Stop the task that makes an object, queued or running, wherever it was submitted."""

        def act() -> None:
            entry = self._table.get(object_id)
            if entry is not None and self._counting.is_borrowed(entry):
                assert entry.owner is not None
                self._mail.send(entry.owner, m.CancelObject(object_id, force, recursive))
            else:
                self._cancel(object_id[:24], force, recursive)

        self._turns.post(act)

    def interrupt(self, task_id: bytes, force: bool) -> None:
        """Stop a task of this process and its children; a call of an actor never by force."""
        self._turns.post(lambda: self._cancel(task_id, force, True, interrupt=True))

    def is_actor_call(self, object_id: bytes) -> bool:
        """Whether an unfinished call of this process makes that object."""
        waiter, known = Waiter(), list[bool]()

        def look() -> None:
            self._take_new()
            known.append(self._calls.knows(object_id[:24]))
            waiter.complete_one()

        self._turns.post(look)
        self._turns.wait(waiter)
        return known[0]

    # --- under the baton --------------------

    def children(self, parent: bytes, force: bool, interrupt: bool) -> None:
        """Stop the tasks that a task of this process submitted."""
        for task_id in [*self._leasing.children(parent), *self._calls.children(parent)]:
            self._cancel(task_id, force, True, interrupt)

    def asked(self, message: m.CancelObject) -> None:
        """A borrower wants the task of one of our objects stopped."""
        self._cancel(message.object_id[:24], message.force, message.recursive)

    def note(self, task_id: bytes) -> None:
        """A task that this worker has, or is about to have, was cancelled."""
        self.noted[task_id] = None
        if len(self.noted) > _NOTED:
            del self.noted[next(iter(self.noted))]

    def _cancel(
        self, task_id: bytes, force: bool, recursive: bool, interrupt: bool = False
    ) -> None:
        self._take_new()
        if self._leasing.find(task_id) is not None:
            worker_id = self._leasing.cancel(task_id, force)
        else:
            worker_id, force = self._calls.cancel(task_id), False
        if worker_id:
            stop = m.CancelTask(task_id, force, recursive, interrupt)
            self._decisions.append(ToWorker(worker_id, stop))
