"""What a remote cell leaves in the notebook: names whose values stay in the cluster.

Each name that the cell assigns becomes a `RemoteValue`: a picture and a promise, never a copy.
Just before a later cell which reads such a name runs, `nbray.jupyter_ext.resolving` waits for
the value and puts it in the name's place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import nbray
from nbray.exceptions import NbrayError
from nbray.jupyter_ext import theme
from nbray.jupyter_ext.cell_analysis import names_reached
from nbray.jupyter_ext.remote_run import RemoteRun

_MISSING = object()


class LostWithClusterError(NbrayError):
    """The value of a name was in a cluster that has been stopped."""


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
        if self.run.is_lost():
            raise LostWithClusterError(
                f"The value of {self.name!r} ({self.run.label}) was in a cluster that has been "
                "stopped. Run that cell again."
            )
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
        state = self.run.state()
        summary = self.run.summary() if state == "done" else None
        return state, summary.types.get(self.name, "") if summary is not None else ""

    def __repr__(self) -> str:
        state, kind = self.describe()
        return f"<RemoteValue {self.name}: {kind + ', ' if kind else ''}{state}, {self.run.label}>"

    def _repr_html_(self) -> str:
        state, kind = self.describe()
        facts = [("", kind or "not known yet"), ("", state), ("in", "the cluster")]
        return str(theme.facts(self.name, [*facts, ("from", self.run.label)], "picture"))

    def __reduce__(self) -> tuple[Any, ...]:
        return _fetch, (self.ref,)


def _fetch(ref: nbray.ObjectRef) -> Any:
    value = nbray.get(ref)
    if isinstance(value, Unpicklable):
        raise value.error()
    return value


def remote_names(names: Iterable[str], namespace: Mapping[str, Any]) -> list[str]:
    """The names bound to RemoteValues that using ``names`` reads, as far as can be seen now."""
    if not any(isinstance(value, RemoteValue) for value in list(namespace.values())):
        return []
    reached = names_reached(names, namespace)
    return sorted(name for name in reached if isinstance(namespace[name], RemoteValue))


def at_home(value: Any, namespace: MutableMapping[str, Any]) -> Any:
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
