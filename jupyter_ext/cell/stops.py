"""Tasks that stand in a debugger: their prompts appear in the cell that submitted them.

A stop of the cell that runs is served in the main thread, in the middle of what the cell waits
for; several queue. One of a cell that has ended waits for ``%nbray debug``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nbray.debugging.talk import Command, Stopped, encode, read_stopped
from nbray.notebook import TaskSays, engine

_NEXT_S = 0.3  # in its own cell it asks again, whenever it comes
_ANSWER_S = 3.0
_PASS_ALL = ("ca", "continueall")
_HELP = "(Commands are pdb's: c goes on, ca with all of this cell, q ends the task.)"
_PASSED = 1000


class Cells(Protocol):
    """What is known of the notebook's cells."""

    def number_of_cell(self) -> int:
        """That of the cell which runs now, or ran last."""

    def tell(self, number: int, text: str) -> None:
        """Show text in a cell."""


@dataclass
class Stop:
    """One task that stands there.

    Attributes:
        worker_id: where.
        origin: the number of its cell.
        said: the last that it said.
        asked: it waits for a command.
        begun: its prompt has been shown.
        told: its cell says that it stands there.
    """

    worker_id: bytes
    origin: int
    said: Stopped
    asked: bool = True
    begun: bool = False
    told: bool = False


class Stops:
    """Those of one notebook."""

    def __init__(self, cells: Cells, ask: Callable[[str], str]) -> None:
        """``ask`` reads a line of the person, as `input` does."""
        self._cells = cells
        self._ask = ask
        self._stops: OrderedDict[tuple[bytes, int], Stop] = OrderedDict()
        self._changed = threading.Condition()
        self._passed: OrderedDict[int, None] = OrderedDict()
        self._runs = False
        self._serves = False

    # --- from the workers --------------------

    def add(self, message: TaskSays) -> None:
        """A task says something of its stop; on the thread that drives the sockets."""
        said, origin = read_stopped(message.content), message.source.origin
        if origin in self._passed and not said.ended:
            _answer(message.worker_id, said, None)
            return
        key = message.worker_id, said.stop
        with self._changed:
            stop = self._stops.get(key)
            if said.ended:
                self._stops.pop(key, None)
            elif stop is None:
                stop = self._stops[key] = Stop(message.worker_id, origin, said)
            else:
                stop.said, stop.asked = said, True
            self._changed.notify_all()
        if stop is None or said.ended:
            if said.text:
                self._cells.tell(origin, said.text)
        elif self._runs and origin == self._cells.number_of_cell():
            engine().asides.interject(self._in_cell)
        else:
            self._tell(stop)

    def _tell(self, stop: Stop) -> None:
        if not stop.told:
            stop.told = True
            text = f"{stop.said.title}, and waits: %nbray debug goes there.\n"
            self._cells.tell(stop.origin, text)

    # --- in the main thread --------------------

    def begin_cell(self) -> None:
        """A cell begins."""
        self._runs = True

    def end_cell(self) -> None:
        """It has ended: what still stands there is told."""
        self._runs = False
        for stop in self._waiting(self._cells.number_of_cell()):
            self._tell(stop)

    def clear(self) -> None:
        """The cluster has gone."""
        with self._changed:
            self._stops.clear()

    def waits(self) -> bool:
        """Whether a task stands there."""
        return bool(self._waiting(None))

    def _in_cell(self) -> None:
        if self._runs:
            self.serve(self._cells.number_of_cell())

    def serve(self, number: int | None = None) -> None:
        """Ask for commands until none waits any more; ``number``: of this cell only.

        Raises:
            KeyboardInterrupt: at the prompt; its task, and the others of its cell, go on.
        """
        if self._serves:
            return
        self._serves = True
        try:
            while waiting := self._waiting(number):
                stop = waiting[0]
                patience = _ANSWER_S if number is None else _NEXT_S
                if self._serve(stop, len(waiting) - 1, patience) and number is None:
                    stop.told = False
                    print(f"{stop.said.title}: the command takes its time; its cell tells its end.")
        finally:
            self._serves = False

    def _waiting(self, number: int | None) -> list[Stop]:
        with self._changed:
            for key, stop in list(self._stops.items()):
                if not engine().asides.is_there(stop.worker_id):
                    del self._stops[key]
                    self._cells.tell(stop.origin, f"{stop.said.title}: its worker has gone.\n")
            return [
                stop
                for stop in self._stops.values()
                if stop.asked and (number is None or stop.origin == number)
            ]

    def _serve(self, stop: Stop, more: int, patience: float) -> bool:
        """One prompt; then a moment for the next one of the same task: whether that is to come."""
        if not stop.begun:
            stop.begun = True
            others = f" ({more} more wait)" if more else ""
            print(f"--- {stop.said.title}{others}\n{_HELP}")
        if stop.said.text:
            print(stop.said.text, end="" if stop.said.text.endswith("\n") else "\n")
        try:
            line = self._command(stop)
        except KeyboardInterrupt:
            self._pass_all(stop.origin)
            raise
        stop.asked = False
        _answer(stop.worker_id, stop.said, line)
        key = stop.worker_id, stop.said.stop
        with self._changed:
            return not self._changed.wait_for(
                lambda: stop.asked or key not in self._stops, patience
            ) and bool(line is not None)

    def _command(self, stop: Stop) -> str | None:
        try:
            line = self._ask(stop.said.prompt)
        except Exception as problem:  # a frontend that cannot be asked says so in its own way
            print(f"{stop.said.title}: it goes on, since nobody can be asked here ({problem}).")
            line = _PASS_ALL[0]
        if line.strip() not in _PASS_ALL:
            return line
        stop.asked = False
        self._pass_all(stop.origin)
        return None

    def _pass_all(self, origin: int) -> None:
        """Nothing of a cell is to stop any more."""
        self._passed[origin] = None
        if len(self._passed) > _PASSED:
            self._passed.popitem(last=False)
        for stop in self._waiting(origin):
            stop.asked = False
            _answer(stop.worker_id, stop.said, None)


def _answer(worker_id: bytes, said: Stopped, line: str | None) -> None:
    engine().asides.answer(worker_id, said.question, encode(Command(line)))
