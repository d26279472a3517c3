"""What a remote cell leaves in the notebook: names whose values stay in the cluster.

Each name that the cell assigns becomes a `RemoteValue`: a picture and a promise, never a copy.
Just before a later cell which reads such a name runs, `nbray.jupyter_ext.cell.arriving` waits for
the value and puts it in the name's place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nbray.exceptions import NbrayError
from nbray.notebook import ObjectRef, engine

from ..messages import Unset
from ..pictures import theme
from ..pictures.tables import as_bytes
from ..worker.home import fetch
from .analysis import names_reached
from .run import RemoteRun

MISSING = object()
"""The previous value of a name that had none."""


class LostWithClusterError(NbrayError):
    """The value of a name was in a cluster that has been stopped."""


@dataclass(frozen=True)
class Described:
    """A value in the cluster, as far as this process knows it.

    Attributes:
        state: of the cell that makes it.
        kind: what it is, in a few words; "" while that is not known.
        size: its bytes, with those of others that came with it; None while that is not known.
        places: the nodes that hold it.
    """

    state: str
    kind: str = ""
    size: int | None = None
    places: tuple[str, ...] = ()


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

    def describe(self) -> Described:
        """What this process knows of the value; fetches nothing, and waits for nothing."""
        state, summary = self.run.seen()
        if self.run.is_lost():
            return Described(state)
        facts = engine().tasks.describe(self.ref)
        kind = "" if self.among else facts.kind
        if summary is not None:
            kind = {**summary.types, **summary.brought}.get(self.name, "")
        where = ["this process"] if facts.inline else [node.hex() for node in facts.nodes]
        return Described(state, kind, facts.size, tuple(where))

    def __repr__(self) -> str:
        known = self.describe()
        size = "" if known.size is None else as_bytes(known.size)
        words = [word for word in (known.kind, known.state, self.run.label, size) if word]
        return f"<RemoteValue {self.name}: {', '.join(words)}>"

    def _repr_html_(self) -> str:
        known = self.describe()
        facts = [
            ("", known.kind or "not known yet"),
            ("", known.state),
            ("size", "" if known.size is None else as_bytes(known.size)),
            ("in", "the cluster"),
            ("from", self.run.label),
        ]
        shown = [fact for fact in facts if fact[1]]
        return str(theme.facts(self.name, shown, "picture"))

    def __reduce__(self) -> tuple[Any, ...]:
        return fetch, (self.ref, self.name if self.among else None)


def remote_names(names: Iterable[str], namespace: Mapping[str, Any]) -> list[str]:
    """The names bound to RemoteValues that using ``names`` reads, as far as can be seen now."""
    if not any(isinstance(value, RemoteValue) for value in list(namespace.values())):
        return []
    reached = names_reached(names, namespace)
    return sorted(name for name in reached if isinstance(namespace[name], RemoteValue))
