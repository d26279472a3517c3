"""How an actor ends by its own wish: `exit_actor`, ``sys.exit`` in its code, in whatever thread.

Calls that run are answered first; those that wait are not begun. ``sys.exit(0)`` and `exit_actor`
are meant: the actor does not come back. Any other ``sys.exit`` is a crash, from which it may
be restarted, and its calls repeated. Either way runs what was registered for the end.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from nbray.core_worker.context import running
from nbray.core_worker.identity import Identity
from nbray.core_worker.ports import Inbox, Raylet
from nbray.exceptions import ExitActor
from nbray.wire import messages as m
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.watching_messages import ProcessLeaves

logger = logging.getLogger(__name__)


def exit_status(leaving: SystemExit) -> int:
    """The status of a process that ends so, as Python's own; a text is printed as there."""
    code = leaving.code
    try:
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
    except Exception as error:  # of its ``__str__``, which is the user's
        logger.info("What it was left with is not printed: %r", error)
    flush_streams()
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def flush_streams() -> None:
    """Write what is left in stdout and stderr, whatever the program has put in their places."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception as error:  # None, closed, a full disk: the process ends all the same
            logger.info("%s is not flushed: %r", name, error)


def intended(leaving: SystemExit) -> str:
    """How an end that was meant is told; empty for one that counts as a crash."""
    if isinstance(leaving, ExitActor):
        return "exit_actor() is called"
    code = leaving.code
    if isinstance(code, int | float) and code == 0:
        return "it called sys.exit: its worker exits with an exit code 0"
    return ""


class ActorExit:
    """The end of the actor of this process, once it is wished for.

    ``is_busy`` says whether calls run; ``crash`` ends the process with a status.
    """

    def __init__(
        self, me: Identity, inbox: Inbox, raylet: Raylet, patience_s: float,
        is_busy: Callable[[], bool], crash: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._me = me
        self._inbox = inbox
        self._raylet = raylet
        self._patience_s = patience_s
        self._is_busy = is_busy
        self._crash = crash
        self._asked_by: set[bytes] = set()
        self._done = False
        self.leaving: SystemExit | None = None

    def asked(self) -> None:
        """The code of the actor wishes for it: `exit_actor`."""
        call = running.get()
        if call is not None:
            self._asked_by.add(call.task_id)
        self.begin(ExitActor())

    def is_asked_by(self, task_id: bytes) -> bool:
        """Whether that call has wished for it, whatever it made of the exception."""
        return task_id in self._asked_by

    def begin(self, leaving: SystemExit) -> None:
        """End the actor as soon as no call runs; from any thread. The first wish counts."""
        if self.leaving is None:
            self.leaving = leaving
            self._inbox.post(lambda: self._inbox.call_later(self._patience_s, self._end))
        self.call_ended()

    def call_ended(self) -> None:
        """A call has ended after `begin`; from any thread."""
        self._inbox.post(self._end_if_idle)

    def _end_if_idle(self) -> None:
        if not self._is_busy():
            self._end()

    def end_of_constructor(self) -> m.ActorCreated | None:
        """What a raylet is told of a constructor that has ended the actor; None for a crash."""
        assert self.leaving is not None and self._me.actor is not None
        cause = intended(self.leaving)
        if not cause:
            self.call_ended()
            return None
        self._done = True
        return m.ActorCreated(self._me.actor.actor_id, Cause(CauseKind.LEFT, cause))

    def _end(self) -> None:
        """Under the baton."""
        leaving, actor = self.leaving, self._me.actor
        if self._done or leaving is None or actor is None:
            return
        self._done = True
        status = exit_status(leaving)
        cause = intended(leaving)
        if cause:
            message = m.KillActor(actor.actor_id, Cause(CauseKind.LEFT, cause))
            # A timer runs after the replies of this turn; then the raylet ends this process.
            self._inbox.call_later(0.0, lambda: self._tell(message))
            why = ProcessLeaves("INTENDED_USER_EXIT", f"The actor left: {cause}.")
            self._raylet.to_raylet(why)
        else:
            self._crash(status)

    def _tell(self, message: m.KillActor) -> None:
        self._raylet.to_raylet(message)
