"""What the threads of this process do: once, or counted over some seconds, for who profiles it.

A thread of its own looks, so that the one that runs the user's code and the one that serves the
sockets are not held up; it needs the GIL for each look, as all that is Python does. A process that
does not give the GIL away cannot answer: `py-spy` looks from outside.
"""

from __future__ import annotations

import logging
import threading

from nbray.core_worker.ports import Sink
from nbray.debugging.stacks import LOOKS, MOST_STACKS, allocated, sampled
from nbray.wire.watching_messages import StacksTold, TellStacks

logger = logging.getLogger(__name__)

_LONGEST_S = 60.0


class StackTeller:
    """Answers for this process, one question at a time."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._busy = threading.Lock()

    def on_tell(self, message: TellStacks) -> None:
        """The raylet asks; under the baton."""
        threading.Thread(target=self._answer, args=(message,), name=LOOKS, daemon=True).start()

    def _answer(self, message: TellStacks) -> None:
        answer = StacksTold(message.request_id)
        if not self._busy.acquire(blocking=False):
            answer.error = "This process is being profiled already."
        else:
            try:
                look = allocated if message.memory else sampled
                if message.working:
                    from nbray.debugging.working import working as look  # few are watched so
                counts = look(min(message.seconds, _LONGEST_S), message.per_s)
                answer.counts = dict(counts.most_common(MOST_STACKS))
            except Exception as error:  # of a library that looks into the interpreter
                logger.exception("A profile was not made")
                answer.error = f"{type(error).__name__}: {error}"
            finally:
                self._busy.release()
        self._sink.post(lambda: self._tell(answer))

    def _tell(self, answer: StacksTold) -> None:
        self._sink.to_raylet(answer)
