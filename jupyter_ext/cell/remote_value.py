"""What a remote cell leaves in the notebook: names whose values stay in the cluster.

Each name that the cell assigns becomes a `RemoteValue`: a picture and a promise, never a copy.
Just before a later cell which reads such a name runs, `nbray.jupyter_ext.cell.arriving` waits for
the value and puts it in the name's place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nbray.exceptions import NbrayError
from nbray.notebook import ObjectRef

from ..messages import Unset
from ..pictures import theme
from ..worker.home import fetch
from .analysis import names_reached
from .run import RemoteRun

MISSING = object()
"""The previous value of a name that had none."""


class LostWithClusterError(NbrayError):
    """The value of a name was in a cluster that has been stopped."""


class RemoteValue:
    """A name's value that is, or will be, in the cluster.

    Its representations show state and type and fetch nothing. Reading the name in a later
    cell replaces it by the value; `get` fetches it by hand.

    Attributes:
        name: the name in the notebook.
        ref: the ObjectRef of the value, or of the dict that has it among others.
        run: the cell that makes it.
        certain: whether the cell binds the name whichever way it goes.
        among: whether it is one of several values, which ``ref`` has by name.
        previous: what the name had before, if it had a value: it gets that again when this one
            is lost.
    """

    def __init__(
        self,
        name: str,
        ref: ObjectRef,
        run: RemoteRun,
        certain: bool = True,
        among: bool = False,
        previous: Any = MISSING,
    ) -> None:
        self.name = name
        self.ref = ref
        self.run = run
        self.certain = certain
        self.among = among
        self.previous = previous

    def get(self) -> Any:
        """Wait for the value and fetch it.

        Raises:
            BaseException: what the cell raised.
            NameError: the cell ended without binding the name, and it had no value before.
            TypeError: the value cannot leave its worker.
        """
        if self.run.is_lost():
            again = "" if self.previous is MISSING else f" {self.name!r} has its value of before."
            raise LostWithClusterError(
                f"The value of {self.name!r} ({self.run.label}) was in a cluster that has been "
                f"stopped. Run that cell again.{again}"
            )
        self.run.wait()
        value = fetch(self.ref)
        if self.among:
            return value[self.name]
        if isinstance(value, Unset):
            if self.previous is MISSING:
                raise NameError(f"The remote cell {self.run.label} did not assign {self.name!r}.")
            previous = self.previous
            return previous.get() if isinstance(previous, RemoteValue) else previous
        return value

    def is_over(self) -> bool:
        """Whether its cell has failed, or has been lost, so that there will be no value."""
        return self.run.state() not in ("running", "done")

    def settle(self) -> None:
        """The cell has bound the name: of what it had before, only the notebook's own is kept."""
        while isinstance(self.previous, RemoteValue):
            self.previous = self.previous.previous

    def describe(self) -> tuple[str, str]:
        """State and type, as far as known."""
        state = self.run.state()
        summary = self.run.summary() if state == "done" else None
        if summary is None:
            return state, ""
        return state, {**summary.types, **summary.brought}.get(self.name, "")

    def __repr__(self) -> str:
        state, kind = self.describe()
        return f"<RemoteValue {self.name}: {kind + ', ' if kind else ''}{state}, {self.run.label}>"

    def _repr_html_(self) -> str:
        state, kind = self.describe()
        facts = [("", kind or "not known yet"), ("", state), ("in", "the cluster")]
        return str(theme.facts(self.name, [*facts, ("from", self.run.label)], "picture"))

    def __reduce__(self) -> tuple[Any, ...]:
        return fetch, (self.ref, self.name if self.among else None)


def remote_names(names: Iterable[str], namespace: Mapping[str, Any]) -> list[str]:
    """The names bound to RemoteValues that using ``names`` reads, as far as can be seen now."""
    if not any(isinstance(value, RemoteValue) for value in list(namespace.values())):
        return []
    reached = names_reached(names, namespace)
    return sorted(name for name in reached if isinstance(namespace[name], RemoteValue))
