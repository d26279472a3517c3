"""Threads that take turns as a schedule says: real code, in every order of its lines.

Each thread runs under `sys.settrace` and stops at every line of the modules that are looked at.
There it, and nobody else, may be let go on. What would block in the kernel (a lock, an event, a
poll, a sleep) is a condition here: a thread whose condition does not hold cannot be chosen, and
when no thread can be, what all wait for never comes: a wake-up was lost.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

Choose = Callable[[list[int], int], int]
"""Given the threads that may go on and the one that went last (-1: none), which goes on."""


class Stuck(AssertionError):
    """Nobody can go on."""


class _Over(BaseException):
    """Ends a thread whose run is over."""


class Interleaving:
    """One run of several threads.

    Args:
        files: the files at whose lines a thread may lose its turn.
        choose: the schedule.
        most_steps: a run that is longer goes round in circles, which is a failure as well.
    """

    def __init__(self, files: set[str], choose: Choose, most_steps: int = 5000) -> None:
        self._files = files
        self._choose = choose
        self._most_steps = most_steps
        self._threads: list[threading.Thread] = []
        self._turns: list[threading.Semaphore] = []
        self._conditions: list[Callable[[], bool] | None] = []
        self._where: list[str] = []
        self._ended: list[bool] = []
        self._naps: list[bool] = []
        self._errors: list[BaseException] = []
        self._back = threading.Semaphore(0)
        self._over = False
        self._ids: dict[int, int] = {}
        self._traced: dict[CodeType, bool] = {}
        self.steps = 0

    def add(self, action: Callable[[], Any]) -> None:
        """Have ``action`` run in a thread of its own."""
        number = len(self._threads)
        self._turns.append(threading.Semaphore(0))
        self._conditions.append(None)
        self._where.append("its beginning")
        self._ended.append(False)
        self._naps.append(False)

        def run() -> None:
            self._ids[threading.get_ident()] = number
            self._turns[number].acquire()
            try:
                if not self._over:
                    sys.settrace(self._trace)
                    action()
            except _Over:
                pass
            except BaseException as error:
                self._errors.append(error)
            finally:
                sys.settrace(None)
                self._ended[number] = True
                self._back.release()

        self._threads.append(threading.Thread(target=run, daemon=True))

    def _trace(self, frame: FrameType, event: str, _arg: Any) -> Any:
        code = frame.f_code
        looked_at = self._traced.get(code)
        if looked_at is None:
            looked_at = self._traced[code] = code.co_filename in self._files
        if not looked_at:
            return None
        if event == "line":
            self.pause(None, f"{code.co_name}:{frame.f_lineno}")
        return self._trace

    def pause(
        self, condition: Callable[[], bool] | None, where: str, *, naps: bool = False
    ) -> None:
        """Give the turn back; go on when this thread is chosen, and ``condition`` holds.

        One that ``naps`` has the turn last, unless the schedule says otherwise.
        """
        number = self._ids.get(threading.get_ident())
        if number is None:
            return  # the test's own thread, before or after the run
        if self._over:
            raise _Over  # in what is run at its end
        self._conditions[number] = condition
        self._where[number] = where
        self._naps[number] = naps
        self._back.release()
        self._turns[number].acquire()
        if self._over:
            raise _Over

    def run(self, until: Callable[[], bool]) -> None:
        """Let the threads take turns until ``until`` holds.

        Raises:
            Stuck: nobody can go on, or the run goes round in circles.
            BaseException: what a thread raised.
        """
        for thread in self._threads:
            thread.start()
        last = -1
        try:
            while not until():
                able = [
                    number
                    for number, condition in enumerate(self._conditions)
                    if not self._ended[number] and (condition is None or condition())
                ]
                if not able or self.steps > self._most_steps:
                    places = ", ".join(
                        f"{number} at {'its end' if self._ended[number] else where}"
                        for number, where in enumerate(self._where)
                    )
                    raise Stuck(f"after {self.steps} steps: {places}")
                able.sort(key=self._naps.__getitem__)
                last = self._choose(able, -1 if last >= 0 and self._naps[last] else last)
                self.steps += 1
                self._conditions[last] = None
                self._turns[last].release()
                self._back.acquire()
                if self._errors:
                    raise self._errors[0]
        finally:
            self._over = True
            for number, thread in enumerate(self._threads):
                if not self._ended[number]:
                    self._turns[number].release()
                    self._back.acquire()
                thread.join()


class Preempt:
    """A schedule without surprises, but for some steps at which another thread goes on.

    Most faults of concurrency need one or two preemptions only, so all schedules of that few are
    tried; where a thread cannot go on, the next one does.

    Args:
        at: the numbers of the steps at which it is another thread's turn, with which of the others.
    """

    def __init__(self, at: dict[int, int]) -> None:
        self._at = at
        self._step = 0
        self.choices: list[int] = []

    def __call__(self, able: list[int], last: int) -> int:
        """The next thread."""
        step, self._step = self._step, self._step + 1
        self.choices.append(len(able))
        if step in self._at:
            others = [number for number in able if number != last] or able
            return others[self._at[step] % len(others)]
        return last if last in able else able[0]
