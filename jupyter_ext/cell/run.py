"""One submission of a remote cell, as a handle: its state, its end, how to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from nbray.exceptions import GetTimeoutError, TaskCancelledError
from nbray.notebook import ObjectRef, engine

from ..messages import Summary
from ..pictures import theme
from .interrupts import stop


def told_changes(summaries: Sequence[Summary]) -> str:
    """What a person is told of values that were changed in workers only; "" when none were."""
    classes = sorted({name for summary in summaries for name in summary.classes})
    changed = sorted({name for summary in summaries for name in summary.changed} - {*classes})
    told = []
    if changed:
        names, option = ", ".join(changed), ",".join(changed)
        told.append(f"Changed in the worker only: {names}. -o {option} brings it back.")
    if classes:
        told.append(
            f"Changed in the worker only: {', '.join(classes)}. A class of the notebook is not "
            "altered from there: change it here."
        )
    return "\n".join(told)


class Detached(KeyboardInterrupt):
    """The wait for a remote cell was interrupted, and the cell goes on."""


@dataclass(frozen=True)
class Patience:
    """How long a run is waited for, and what an interrupt of that does.

    Attributes:
        timeout: seconds, None for ever.
        on_interrupt: ``cancel`` or ``detach``.
        grace: seconds that it has to stop by itself.
    """

    timeout: float | None = None
    on_interrupt: str = "cancel"
    grace: float = 3.0


class RemoteRun:
    """The handle of a remote cell that runs, or ran.

    Attributes:
        label: which cell, as ``In [3]``.
        refs: ready (or failed) as soon as the cell has run; several for several tasks.
        inputs: the earlier runs whose values this one reads.
        sent_bytes: what was sent for it, without what the object store had already.
        stopped: how an interrupt ended: ``stopped``, ``killed``, ``still running``, or "".
        told: whether somebody has been told that it failed, or has asked it to stop.
        names: what the values are called that it makes, by the ids of their refs.
        unchanged: the names that it would have assigned, and that have the values of before.
    """

    def __init__(
        self,
        label: str,
        refs: Sequence[ObjectRef],
        inputs: Sequence[RemoteRun],
        *,
        source: str = "",
        sent_bytes: int = 0,
        patience: Patience | None = None,
    ) -> None:
        self.label = label
        self.refs = list(refs)
        self.inputs = tuple(inputs)
        self.sent_bytes = sent_bytes
        self.patience = patience or Patience()
        self.stopped = ""
        self.told = False
        self.names: dict[str, str] = {}
        self.unchanged: tuple[str, ...] = ()
        self._source = source
        self._cluster = cluster_name()
        self._started = time.monotonic()
        self._ended: float | None = None
        self._outcome: list[Summary] | BaseException | None = None
        engine().tasks.when_ended(self.refs, self._note_end)

    def _note_end(self) -> None:
        if self._ended is None:
            self._ended = time.monotonic()

    @property
    def summary_ref(self) -> ObjectRef:
        """The first of `refs`."""
        return self.refs[0]

    def outcome(self, timeout: float | None = 0.0) -> list[Summary] | BaseException | None:
        """The summaries, the error, or None while it has not ended within ``timeout``."""
        if self._outcome is None:
            ready, _ = engine().api.wait(self.refs, num_returns=len(self.refs), timeout=timeout)
            if len(ready) == len(self.refs):
                self._note_end()
                try:
                    self._outcome = engine().api.get(self.refs)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # whatever the user's cell raised
                    self._outcome = error
        return self._outcome

    def summary(self) -> Summary | None:
        """Of the first task, when it has ended well."""
        outcome = self.outcome()
        return outcome[0] if isinstance(outcome, list) else None

    def wait(self, timeout: float | None = None) -> list[Summary]:
        """Wait for the end of the cell; an interrupt cancels it, a second one kills it.

        Raises:
            BaseException: what the cell raised.
            KeyboardInterrupt: the wait was interrupted.
            GetTimeoutError: it did not end in time, and was cancelled.
        """
        limit = self.patience.timeout if timeout is None else timeout
        try:
            outcome = self.outcome(timeout=limit)
        except KeyboardInterrupt:
            if self.patience.on_interrupt == "detach":
                raise Detached(f"{self.label} goes on in the cluster.") from None
            self.stopped = stop(self._ended_within, self.cancel, self.patience.grace)
            raise
        if outcome is None:
            self.cancel()
            raise GetTimeoutError(
                f"Remote cell {self.label} did not end within {limit:g} s and was cancelled."
            )
        if isinstance(outcome, list):
            return outcome
        self.told = True
        raise outcome

    def _ended_within(self, seconds: float) -> bool:
        return self.outcome(timeout=seconds) is not None

    def cancel(self, force: bool = False) -> None:
        """Ask the cell to stop; with ``force`` kill its workers."""
        self.told = True
        engine().tasks.interrupt([ref.task_id() for ref in self.refs], force=force)

    def state(self) -> str:
        """``running`` (or waiting to run), ``done``, ``cancelled`` or ``failed``."""
        if self.is_lost():
            return "lost with its cluster"
        outcome = self.outcome()
        if outcome is None:
            return "running"
        if isinstance(outcome, list):
            return "done"
        return "cancelled" if isinstance(outcome, TaskCancelledError) else "failed"

    def seen(self) -> tuple[str, Summary | None]:
        """Its state and first summary as far as this process knows them: nothing is waited for.

        Pictures ask for it, also from a debugger's thread while all others stand still.
        """
        if self.is_lost() or self._outcome is not None:
            outcome = self._outcome
            return self.state(), outcome[0] if isinstance(outcome, list) else None
        facts = [engine().tasks.describe(ref) for ref in self.refs]
        if any(fact.state == "pending" for fact in facts):
            return "running", None
        if all(fact.inline for fact in facts):  # it is here already
            return self.state(), self.summary()
        return ("failed" if any(fact.state == "failed" for fact in facts) else "done"), None

    def is_lost(self) -> bool:
        """Whether the cluster that it ran in has been left, with its values."""
        return cluster_name() != self._cluster

    def seconds(self) -> float:
        """Since it was submitted, until it ended, or was seen to be lost."""
        if self.is_lost():
            self._note_end()
        return (self._ended or time.monotonic()) - self._started

    def watch(self, on_done: Callable[[Future[Summary]], None]) -> None:
        """Call ``on_done`` for each task that ends, or for those whose end is to be told."""
        for ref in self.refs:
            engine().tasks.future(ref).add_done_callback(on_done)

    def where(self) -> list[str]:
        """Lines on where it failed, of several places."""
        return []

    def what(self) -> str:
        """Its first line of code."""
        return first_line(self._source)

    def depends_on(self, other: RemoteRun) -> bool:
        """Whether this run needs a value of ``other``, directly or through other runs."""
        return self is other or any(run.depends_on(other) for run in self.inputs)

    def __await__(self) -> Generator[Any, None, None]:
        for ref in self.refs:
            yield from ref.__await__()

    def __repr__(self) -> str:
        return f"<remote cell {self.label}: {self.state()}>"

    def _repr_html_(self) -> str:
        facts = [("", self.state()), ("", f"{self.seconds():.1f} s"), ("begins", self.what())]
        return str(theme.facts(f"Remote cell {self.label}", facts, "picture"))


def first_line(source: str) -> str:
    """The first line of code in a cell."""
    lines = [line.strip() for line in source.splitlines()[1:]]
    return next((line for line in lines if line and not line.startswith("#")), "")[:60]


def cluster_name() -> str:
    """This kernel's name in its cluster, another one each time that it joins; "" outside."""
    return engine().cluster.name()
