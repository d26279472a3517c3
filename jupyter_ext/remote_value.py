"""What a remote cell leaves in the notebook: names whose values stay in the cluster.

A `RemoteRun` is one submission of a remote cell. Each name that the cell assigns becomes a
`RemoteValue`: a picture and a promise, never a copy. Just before a later cell which reads
such a name runs, `resolve_names` waits for the value and puts it in the name's place.
"""

from __future__ import annotations

import html
import traceback
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import nbray
from nbray.exceptions import TaskCancelledError, TaskError
from nbray.jupyter_ext.cell_analysis import names_reached

CELL_FILE = "<remote cell"
_MISSING = object()
_HERE = str(Path(__file__).parent)
_RUNTIME = str(Path(nbray.__file__).parent)


@dataclass(frozen=True)
class Unset:
    """Stands for a name that the cell's way through its branches did not bind."""

    name: str


@dataclass(frozen=True)
class Unpicklable:
    """Stands for a value that cannot leave its worker."""

    name: str
    type_name: str
    reason: str

    def error(self) -> TypeError:
        """What using the name raises."""
        return TypeError(
            f"{self.name!r} is a {self.type_name} that stayed in its worker, since it cannot be "
            f"pickled ({self.reason}). Use it inside the remote cell that makes it."
        )


@dataclass(frozen=True)
class Summary:
    """What comes back first from a remote cell.

    Attributes:
        displays: MIME bundles to show, in order.
        types: for each assigned name what its value is, in a few words.
    """

    displays: list[dict[str, Any]] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)


class RemoteRun:
    """One submission of a remote cell.

    Attributes:
        label: which cell, as ``In [3]``.
        summary_ref: ready (or failed) as soon as the cell has run.
        inputs: the earlier runs whose values this one reads.
    """

    def __init__(
        self, label: str, summary_ref: nbray.ObjectRef, inputs: Sequence[RemoteRun]
    ) -> None:
        self.label = label
        self.summary_ref = summary_ref
        self.inputs = tuple(inputs)
        self._outcome: Summary | BaseException | None = None

    def outcome(self, timeout: float | None = 0.0) -> Summary | BaseException | None:
        """The summary, the error, or None while the cell has not ended within ``timeout``."""
        if self._outcome is None:
            ready, _ = nbray.wait([self.summary_ref], num_returns=1, timeout=timeout)
            if ready:
                try:
                    self._outcome = nbray.get(self.summary_ref)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # whatever the user's cell raised
                    self._outcome = error
        return self._outcome

    def wait(self) -> Summary:
        """Wait for the end of the cell; an interrupt cancels it.

        The first interrupt asks the cell to stop and gives it a second to do so. Another one
        within that second kills its worker.

        Raises:
            BaseException: what the cell raised, rendered with the cell's own lines.
            KeyboardInterrupt: the wait was interrupted.
        """
        try:
            outcome = self.outcome(timeout=None)
        except KeyboardInterrupt:
            self._cancel()
            raise
        if isinstance(outcome, Summary):
            return outcome
        assert outcome is not None
        raise outcome

    def _cancel(self) -> None:
        nbray.cancel(self.summary_ref)
        try:
            nbray.wait([self.summary_ref], num_returns=1, timeout=1.0)
        except KeyboardInterrupt:
            nbray.cancel(self.summary_ref, force=True)

    def state(self) -> str:
        """``running`` (or waiting to run), ``done``, ``cancelled`` or ``failed``."""
        outcome = self.outcome()
        if outcome is None:
            return "running"
        if isinstance(outcome, Summary):
            return "done"
        return "cancelled" if isinstance(outcome, TaskCancelledError) else "failed"

    def depends_on(self, other: RemoteRun) -> bool:
        """Whether this run needs a value of ``other``, directly or through other runs."""
        return self is other or any(run.depends_on(other) for run in self.inputs)

    def __repr__(self) -> str:
        return f"<remote cell {self.label}: {self.state()}>"


class RemoteValue:
    """A name's value that is, or will be, in the cluster.

    Its representations show state and type and fetch nothing. Reading the name in a later
    cell replaces it by the value; `get` fetches it by hand.

    Attributes:
        name: the name in the notebook.
        ref: the ObjectRef of the value.
        run: the cell that makes it.
        certain: whether the cell binds the name whichever way it goes.
    """

    def __init__(
        self,
        name: str,
        ref: nbray.ObjectRef,
        run: RemoteRun,
        certain: bool = True,
        previous: Any = _MISSING,
    ) -> None:
        self.name = name
        self.ref = ref
        self.run = run
        self.certain = certain
        self._previous = previous

    def get(self) -> Any:
        """Wait for the value and fetch it.

        Raises:
            BaseException: what the cell raised.
            NameError: the cell ended without binding the name, and it had no value before.
            TypeError: the value cannot leave its worker.
        """
        self.run.wait()
        value = _fetch(self.ref)
        if isinstance(value, Unset):
            if self._previous is _MISSING:
                raise NameError(f"The remote cell {self.run.label} did not assign {self.name!r}.")
            previous = self._previous
            return previous.get() if isinstance(previous, RemoteValue) else previous
        return value

    def describe(self) -> tuple[str, str]:
        """State and type, as far as known."""
        outcome = self.run.outcome()
        known = outcome.types.get(self.name, "") if isinstance(outcome, Summary) else ""
        return self.run.state(), known

    def __repr__(self) -> str:
        state, kind = self.describe()
        return f"<RemoteValue {self.name}: {kind + ', ' if kind else ''}{state}, {self.run.label}>"

    def _repr_html_(self) -> str:
        state, kind = (html.escape(text) for text in self.describe())
        name, label = html.escape(self.name), html.escape(self.run.label)
        return (
            f"<div><b>{name}</b> <code>{kind or 'not known yet'}</code> &middot; {state} &middot; "
            f"in the cluster, from {label}</div>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _fetch, (self.ref,)


def _fetch(ref: nbray.ObjectRef) -> Any:
    value = nbray.get(ref)
    if isinstance(value, Unpicklable):
        raise value.error()
    return value


def resolve_names(namespace: MutableMapping[str, Any], names: Sequence[str]) -> None:
    """Put the values of all RemoteValues that using ``names`` reads in their places.

    A function that arrives may read further names, so this looks again until none is left.

    Raises:
        BaseException: what the remote cell raised, with its traceback.
    """
    while waiting := remote_names(names, namespace):
        for name in waiting:
            remote = namespace[name]
            try:
                value = remote.get()
            except BaseException as error:  # the cell's error, whatever its class
                raise rendered(error, remote.run, namespace) from None
            namespace[name] = _at_home(value, namespace)


def remote_names(names: Iterable[str], namespace: Mapping[str, Any]) -> list[str]:
    """The names bound to RemoteValues that using ``names`` reads, as far as can be seen now."""
    if not any(isinstance(value, RemoteValue) for value in list(namespace.values())):
        return []
    reached = names_reached(names, namespace)
    return sorted(name for name in reached if isinstance(namespace[name], RemoteValue))


def _at_home(value: Any, namespace: MutableMapping[str, Any]) -> Any:
    """Functions and classes from a remote cell see the notebook's globals, as if made here."""
    if isinstance(value, FunctionType):
        return _moved(value, namespace) if value.__module__ == "__main__" else value
    made_by = value if isinstance(value, type) else type(value)
    if made_by.__module__ == "__main__":
        for name, method in list(vars(made_by).items()):
            if isinstance(method, FunctionType) and method.__globals__ is not namespace:
                setattr(made_by, name, _moved(method, namespace))
    return value


def _moved(function: FunctionType, namespace: MutableMapping[str, Any]) -> FunctionType:
    assert isinstance(namespace, dict)
    moved = FunctionType(
        function.__code__, namespace, function.__name__, function.__defaults__,
        function.__closure__,
    )  # fmt: skip
    for name in ("__kwdefaults__", "__annotations__", "__qualname__", "__doc__", "__module__"):
        setattr(moved, name, getattr(function, name))
    moved.__dict__.update(function.__dict__)
    return moved


def _root(run: RemoteRun) -> RemoteRun:
    """The first run that failed, among this one and those whose values it reads."""
    for earlier in run.inputs:
        if earlier.state() in ("failed", "cancelled"):
            return _root(earlier)
    return run


def dependents(run: RemoteRun, namespace: Mapping[str, Any]) -> list[str]:
    """The names of ``namespace`` that have no value when ``run`` fails."""
    return [
        f"{name} ({value.run.label})"
        for name, value in namespace.items()
        if isinstance(value, RemoteValue) and value.run.depends_on(run)
    ]


def error_lines(error: BaseException, run: RemoteRun, namespace: Mapping[str, Any]) -> list[str]:
    """The error of a remote cell as text: the user's own frames first to last."""
    if isinstance(error, TaskError):
        lines = list(_user_lines(error.traceback_text))
    else:
        lines = traceback.format_exception_only(error)
        lines = [line for text in lines for line in text.rstrip("\n").split("\n")]
    if run.state() in ("failed", "cancelled"):
        root = _root(run)
        lines += ["", f"Remote cell {root.label} did not finish."]
        names = dependents(root, namespace)
        if names:
            lines.append(f"Without a value because of it: {', '.join(names)}.")
    return lines


def _user_lines(text: str) -> Iterator[str]:
    """``text`` without the frames of nbray itself."""
    ours = False
    for line in text.rstrip("\n").split("\n"):
        if line.startswith('  File "'):
            ours = line.startswith((f'  File "{_HERE}', f'  File "{_RUNTIME}'))
        elif not line.startswith("    "):
            ours = False
        if not ours:
            yield line


def rendered(error: BaseException, run: RemoteRun, namespace: Mapping[str, Any]) -> BaseException:
    """``error``, which IPython now shows by the remote cell's lines instead of nbray's."""
    if isinstance(error, KeyboardInterrupt):
        lines = [f"KeyboardInterrupt: remote cell {run.label} was cancelled."]
    else:
        lines = error_lines(error, run, namespace)
    error.__dict__["_render_traceback_"] = lambda: lines
    return error
