"""How work is stopped: by whoever submitted it, wherever it is queued or runs.

A task's owner knows where it is, so a borrower asks the owner; a queued task is forgotten there,
and one that runs is stopped by its worker, with what it has submitted itself. A worker notes what
was cancelled, since the word may come before the task does.
"""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

from nbray.wire import messages as m

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

_NOTED = 1000


class Cancelling:
    """The cancellations of one process.

    Attributes:
        noted: the tasks that this worker was told of, the newest last.
    """

    def __init__(self, core: CoreWorker) -> None:
        self.noted: dict[bytes, None] = {}
        self._core = core
        core.peers.handlers[m.CancelObject] = lambda _peer, message: self._cancel(
            message.object_id[:24], message.force, message.recursive
        )

    # --- any thread --------------------

    def cancel(self, object_id: bytes, force: bool, recursive: bool = True) -> None:
        """Stop the task that makes an object, queued or running, wherever it was submitted."""
        core = self._core

        def act() -> None:
            entry = core.table.get(object_id)
            if entry is not None and core.references.is_borrowed(entry):
                assert entry.owner is not None
                message = m.CancelObject(object_id, force, recursive)
                core.peers.connect(entry.owner).send(message)
            else:
                self._cancel(object_id[:24], force, recursive)

        core.reactor.post(act)

    def interrupt(self, task_id: bytes, force: bool) -> None:
        """Stop a task of this process and its children; a call of an actor never by force."""
        self._core.reactor.post(lambda: self._cancel(task_id, force, True, interrupt=True))

    def is_actor_call(self, object_id: bytes) -> bool:
        """Whether an unfinished call of this process makes that object."""
        known: concurrent.futures.Future[bool] = concurrent.futures.Future()

        def look() -> None:
            self._core.take_new()
            known.set_result(self._core.actor_calls.knows(object_id[:24]))

        self._core.reactor.post(look)
        return known.result()

    # --- under the baton --------------------

    def children(self, parent: bytes, force: bool, interrupt: bool) -> None:
        """Stop the tasks that a task of this process submitted."""
        core = self._core
        for task_id in [*core.submitter.children(parent), *core.actor_calls.children(parent)]:
            self._cancel(task_id, force, True, interrupt)

    def note(self, task_id: bytes) -> None:
        """A task that this worker has, or is about to have, was cancelled."""
        self.noted[task_id] = None
        if len(self.noted) > _NOTED:
            del self.noted[next(iter(self.noted))]

    def _cancel(
        self, task_id: bytes, force: bool, recursive: bool, interrupt: bool = False
    ) -> None:
        core = self._core
        core.take_new()
        connection = core.submitter.cancel(task_id, force)
        if connection is not None:
            connection.send(m.CancelTask(task_id, force, recursive, interrupt))
            return
        connection = core.actor_calls.cancel(task_id)
        if connection is not None:
            connection.send(m.CancelTask(task_id, False, recursive, interrupt))
