"""A cell whose body runs once for each element of a sequence: ``%%remote --map x=xs``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from IPython.core.error import UsageError

from nbray.exceptions import GetTimeoutError
from nbray.notebook import ObjectRef, engine

from ..messages import Summary
from .interrupts import stop
from .run import RemoteRun
from .sending import Wanted
from .target import Order, Submitted
from .task import cell_runner

_TICK_S = 0.1
_first = threading.Lock()


class SpreadRun(RemoteRun):
    """The tasks of one cell over many elements.

    Attributes:
        wanted: the names that come back of each element; empty: the value of the last line.
        variables: the names that an element fills.
        shown: what the cell runs over, as text, if that is not to be made of the elements.
        elements: what the cell runs over.
        columns: for each element, the refs of what comes back.
        failed_at: the place of the element that failed first.
    """

    wanted: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    shown: Sequence[str] = ()
    elements: Sequence[Any] = ()
    columns: Sequence[Sequence[ObjectRef]] = ()
    failed_at: int | None = None

    def result(self, timeout: float | None = None) -> list[Any] | dict[str, list[Any]]:
        """What came back, in the order of the elements: a list, or with ``-o`` one for each name.

        Args:
            timeout: seconds; None: what ``--timeout`` of the cell says.

        Raises:
            BaseException: what the first element that failed raised; the others are cancelled.
            GetTimeoutError: not all had ended in time; they are cancelled.
            KeyboardInterrupt: the wait was interrupted, and all are stopped.
        """
        self.wait(timeout)
        lists = [engine().api.get(list(column)) for column in zip(*self.columns, strict=True)]
        return dict(zip(self.wanted, lists, strict=True)) if self.wanted else lists[0]

    def wait(self, timeout: float | None = None) -> list[Summary]:
        """Wait for all; raises as `result` does."""
        try:
            self._wait(self.patience.timeout if timeout is None else timeout)
        except KeyboardInterrupt:
            self.stopped = stop(self._ended_within, self.cancel, self.patience.grace)
            raise
        return super().wait()

    def _wait(self, limit: float | None) -> None:
        until = None if limit is None else time.monotonic() + limit
        pending = list(self.refs)
        places = {ref: place for place, ref in enumerate(self.refs)}
        while pending:
            finished, pending = engine().api.wait(
                pending, num_returns=len(pending), timeout=_TICK_S
            )
            failed = [ref for ref in finished if engine().tasks.describe(ref).state == "failed"]
            if failed:
                self._has_failed(places[failed[0]])
                engine().api.get(self.refs[self.failed_at or 0])
            if until is not None and pending and time.monotonic() > until:
                self.cancel()
                raise GetTimeoutError(
                    f"Remote cell {self.label} did not end within {limit:g} s and was cancelled; "
                    f"{len(self.refs) - len(pending)} of {len(self.refs)} elements were done."
                )

    def _has_failed(self, place: int) -> bool:
        """An element failed; whether it is the first one that did, which ends the others.

        Who waits for them sees it, and who watches them in another thread, in any order.
        """
        with _first:
            if self.failed_at is not None:
                return self.failed_at == place
            self.failed_at = place
        engine().tasks.interrupt([ref.task_id() for ref in self.refs])
        return True

    def watch(self, on_done: Callable[[Future[Summary]], None]) -> None:
        """Call ``on_done`` for each element that ends well, and for the first that fails."""

        def ended(place: int, done: Future[Summary]) -> None:
            if done.exception() is None or self._has_failed(place):
                on_done(done)

        for place, ref in enumerate(self.refs):
            engine().tasks.future(ref).add_done_callback(partial(ended, place))

    def first_error(self) -> BaseException | None:
        """What the element raised that failed first."""
        if self.failed_at is None:
            return None
        try:
            engine().api.get(self.refs[self.failed_at])
        except BaseException as error:  # whatever the user's cell raised
            return error
        return None

    def where(self) -> list[str]:
        """The element that failed."""
        if self.failed_at is None:
            return []
        at = self.failed_at
        value = self.shown[at] if self.shown else short(self.elements[at])
        place = f"Element {at + 1} of {len(self.refs)}"
        return [f"{place}: {', '.join(self.variables)} = {value}"]


def short(element: Any) -> str:
    """An element, for people."""
    value = repr(element)
    return value if len(value) <= 80 else value[:77] + "..."


def elements_of(expression: str, variables: Sequence[str], namespace: dict[str, Any]) -> list[Any]:
    """The elements that an expression of the notebook gives.

    Raises:
        UsageError: it gives none, or others than the variables need.
    """
    try:
        elements = list(eval(expression, namespace))
    except Exception as error:  # the user's expression
        raise UsageError(f"%%remote --map: {expression}: {error}") from error
    count = len(variables)
    if count > 1 and any(len(element) != count for element in elements):
        raise UsageError(f"%%remote --map: an element does not have {count} values.")
    return elements


class OverElements:
    """Once for each element: a value, or a tuple of as many values as there are variables."""

    def __init__(
        self, wanted: Wanted, elements: Sequence[Any], shown: Sequence[str] = ()
    ) -> None:  # fmt: skip
        """``shown``: the elements as text, if these are not the values themselves."""
        self.wanted = wanted
        self._elements = elements
        self._shown = shown

    def values(self) -> list[Any]:
        """All values of all elements, one after the other."""
        if len(self.wanted.variables) == 1:
            return list(self._elements)
        return [value for element in self._elements for value in element]

    def without_values(self) -> OverElements:
        """The same over elements that are only text here; see `over`."""
        shown = [short(element) for element in self._elements]
        return OverElements(self.wanted, [None] * len(shown), shown)

    def over(self, values: Sequence[Any]) -> OverElements:
        """The same over other values, as `values` has them; refs do as well."""
        size = len(self.wanted.variables)
        elements = (
            values if size == 1
            else [values[place : place + size] for place in range(0, len(values), size)]
        )  # fmt: skip
        return OverElements(self.wanted, elements, self._shown)

    def submit(self, order: Order) -> Submitted:
        """See `Target`."""
        variables = self.wanted.variables
        function = cell_runner()
        made = [
            order.call(
                function, order.options, own=(element,) if len(variables) == 1 else tuple(element)
            )
            for element in self._elements
        ]
        columns = [refs[1:] for refs in made]
        if not made:
            return Submitted(order.ready, None, columns, several=True)
        run = order.run(SpreadRun, made)
        run.wanted, run.variables = self.wanted.names or (), variables
        run.elements, run.shown, run.columns = self._elements, self._shown, columns
        return Submitted(order.ready, run, columns, several=True)
