"""What a notebook reads of a detached cell: its output, as it comes, and its results."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbray.notebook import ObjectRef, TaskSays, engine

from ..cell.remote_value import RemoteValue
from ..cell.run import RemoteRun
from ..messages import Summary
from ..worker.keeping import from_bytes
from . import space
from .handing import NotKeptError, is_kept, stored_values
from .space import Row
from .witness import read

Publish = Callable[[str, dict[str, Any]], None]
_AGAIN = 20
_GONE = "it is not there any more"


class Follower:
    """Shows the output of a cell in one place: what there is, and then what is new."""

    def __init__(self, names: Callable[[], Sequence[str]], publish: Publish) -> None:
        """``names``: what it may be called now; it may get another name meanwhile."""
        self._names = names
        self._publish = publish
        self._seen = -1
        self._clears = 0
        self._id = ""
        self._texts: dict[int, int] = {}
        self._mark = os.urandom(4).hex()

    def show_new(self) -> Row | None:
        """Show what is new; returns what is known of the cell, None when it was dropped."""
        row, found = self._read()
        if row is None:
            return None
        if row.clears > self._clears:
            if self._seen >= 0:
                self._publish("clear_output", {"wait": True})
            self._clears = row.clears
            self._texts.clear()
        for number, data in found.items():
            if data is not None:
                self._show(number, *json.loads(data))
        self._seen = row.change
        return row

    def _read(self) -> tuple[Row | None, dict[int, bytes | None]]:
        """The cell's row, and those of its entries that are new or have changed."""
        for _ in range(_AGAIN):
            row = self._find()
            if row is None:
                break
            self._id = row.id
            found = {
                number: space.part(row, f"out/{number}")
                for number, changed in row.index
                if changed > self._seen
            }
            if None not in found.values():  # else it was cleared meanwhile
                return row, found
        return None, {}

    def _find(self) -> Row | None:
        for name in self._names():
            row = space.find(name)
            if row is not None and self._id in ("", row.id):
                return row
        return None

    def _show(self, number: int, kind: str, content: dict[str, Any]) -> None:
        known = number in self._texts
        shown = self._texts.get(number, 0)
        if kind == "stream":
            self._texts[number] = len(content["text"])
            if new := content["text"][shown:]:
                self._publish("stream", {**content, "text": new})
            return
        self._texts[number] = 0
        transient = content.get("transient") or {}
        if "display_id" in transient:  # each place that follows has displays of its own
            own = {**transient, "display_id": f"{transient['display_id']}-{self._mark}"}
            content = {**content, "transient": own}
        self._publish("update_display_data" if known else "display_data", content)


@dataclass
class Results:
    """The results of a cell, as a notebook gets them.

    Attributes:
        values: those that are here already.
        changed: the notebook's values that it has changed.
        lists: those of several places, whose values are in the store.
        remote: those whose values stay in the store, to be put under their names.
        missing: those that there are not any more, or that cannot be opened here, and why.
    """

    values: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, list[ObjectRef]] = field(default_factory=dict)
    remote: dict[str, RemoteValue] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def error_of(row: Row) -> BaseException | None:
    """What a cell raised."""
    data = space.part(row, "error")
    if data is None:
        return None
    try:
        error: BaseException = pickle.loads(data)
    except Exception as problem:  # the error's class is not here
        return RuntimeError(f"Its error cannot be opened here: {problem}")
    return error


def failures_of(row: Row) -> Sequence[TaskSays]:
    """What its tasks that failed told, for a debugger."""
    return read(space.part(row, "failures") or b"")


def results_of(row: Row, home: dict[str, Any]) -> Results:
    """What a cell made; what is small is read, what is large stays where it is."""
    found = Results()
    summaries: list[Summary] = pickle.loads(space.part(row, "summary") or pickle.dumps([]))
    stored: dict[str, list[ObjectRef]] = {}
    lost = ""
    if row.in_store:
        try:
            stored = stored_values(row)
        except NotKeptError as error:
            lost = str(error)
    run = RemoteRun(
        f"{row.name} ({row.label})", [engine().api.put(one) for one in summaries[:1]], []
    )
    for name, (kind, _size, place) in row.results.items():
        what = name or kind
        if place == "gcs":
            data = space.part(row, f"value/{name}")
            if data is None:
                found.missing[what] = _GONE
                continue
            try:
                pieces = pickle.loads(data)
                values = [from_bytes(piece, home) for piece in pieces]
            except Exception as error:  # a value's own code, or a class that is not here
                found.missing[what] = f"it cannot be opened here: {type(error).__name__}: {error}"
                continue
            if not name:
                found.changed.update(values[0])
            else:
                found.values[name] = values if row.several else values[0]
        elif name not in stored:
            found.missing[what] = lost or _GONE
        elif row.several:
            found.lists[name] = stored[name]
        elif name:
            found.remote[name] = RemoteValue(name, stored[name][0], run)
        elif not summaries:
            found.missing[what] = _GONE
        else:
            for changed in summaries[0].brought:
                found.remote[changed] = RemoteValue(changed, stored[""][0], run, among=True)
    return found


def has_keeper(row: Row, alive: dict[tuple[str, str], bool]) -> bool:
    """Whether its keeper lives; ``alive``: as far as that has been found out already."""
    keeper = (row.keeper[0], row.keeper[1])
    if keeper not in alive:
        alive[keeper] = is_kept(row)
    return alive[keeper]


def state_of(row: Row, alive: dict[tuple[str, str], bool] | None = None) -> str:
    """What a cell does: as its keeper said last, and ``lost`` when that has ended before it.

    ``alive``: which keepers live, as far as that has been found out already.
    """
    if row.is_over:
        return row.state
    if has_keeper(row, {} if alive is None else alive):
        return row.state
    again = space.find(row.name)
    return "lost" if again is None or not again.is_over else again.state
