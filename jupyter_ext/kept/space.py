"""Where detached cells are kept: the key-value space of the GCS, which outlives everybody else.

A row, under the cell's name, says what became of it; it is the last thing written after a change.
Beside it, under the cell's id, lie its entries of output and its results as far as they are small.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nbray.common.detached_cells import ENDED, ROWS
from nbray.notebook import engine

_AT_ONCE = 200


@dataclass
class Row:
    """What is known of a detached cell.

    Attributes:
        name: how people call it.
        id: how its output and results are found.
        label: the cell that it was, as ``In [3]``.
        source: its text.
        by: whose notebook detached it.
        keeper: the name of the actor that has it, and the actor's id.
        state: ``handed over``, ``running``, ``done``, ``failed``, ``cancelled``.
        began: when it was handed over.
        ended: when it ended, 0 while it runs.
        change: the number of the last change of its output.
        clears: how often its output was cleared.
        index: number and last change of each entry of its output.
        size: bytes of output.
        left_out: displays that are not kept.
        results: the names that it made, with type, bytes and place (``gcs``, ``store``).
        tied: it ends with its notebook, which runs it here so that it may be let loose.
        several: it ran in several places: each result is a list.
        notes: what is to be said of it.
    """

    name: str
    id: str
    label: str
    source: str
    by: str
    keeper: tuple[str, str]
    state: str = "handed over"
    began: float = 0.0
    ended: float = 0.0
    change: int = 0
    clears: int = 0
    index: list[tuple[int, int]] = field(default_factory=list)
    size: int = 0
    left_out: int = 0
    results: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    tied: bool = False
    several: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDED

    @property
    def in_store(self) -> int:
        """Bytes of its results that lie in the object store."""
        return sum(size for _kind, size, place in self.results.values() if place == "store")


def _read(data: bytes) -> Row:
    known: dict[str, Any] = json.loads(data)
    return Row(**known)


def claim(row: Row) -> bool:
    """Take a name; False when it is taken."""
    return not engine().space.put(_row_key(row.name), _written(row), overwrite=False)


def save(row: Row, written: Mapping[str, bytes], gone: Iterable[str] = ()) -> None:
    """Store what has changed: first what the row speaks of, then the row."""
    store = engine().space
    for key, data in written.items():
        store.put(_key(row.id, key), data)
    store.put(_row_key(row.name), _written(row))
    for key in gone:
        store.delete(_key(row.id, key))


def find(name: str) -> Row | None:
    """The cell of that name."""
    data = engine().space.get(_row_key(name))
    return None if data is None else _read(data)


def names() -> list[str]:
    """The names of all."""
    return sorted(key.removeprefix(ROWS).decode() for key in engine().space.keys(ROWS))


def rows() -> list[Row]:
    """All, oldest first."""
    store = engine().space
    keys = store.keys(ROWS)
    found: list[Row] = []
    for place in range(0, len(keys), _AT_ONCE):
        values = store.get_many(keys[place : place + _AT_ONCE])
        found += [_read(data) for data in values if data is not None]
    return sorted(found, key=lambda row: row.began)


def part(row: Row, key: str) -> bytes | None:
    """What lies beside a row."""
    return engine().space.get(_key(row.id, key))


def drop(row: Row) -> None:
    """Forget a cell and what lies beside it."""
    engine().space.delete(_row_key(row.name))
    engine().space.delete(_key(row.id, ""), prefix=True)


def drop_name(name: str) -> None:
    """Forget a name, but not what lies beside it."""
    engine().space.delete(_row_key(name))


def _written(row: Row) -> bytes:
    return json.dumps(asdict(row)).encode()


def _row_key(name: str) -> bytes:
    return ROWS + name.encode("utf-8", "surrogatepass")


def _key(cell_id: str, key: str) -> bytes:
    return f"detached/part/{cell_id}/{key}".encode()


def taken(name: str) -> str:
    """What is said of a name that is taken."""
    return (
        f"there is a detached cell {name!r} already. Take another name, or drop that one: "
        f"%nbray results --drop {name}"
    )
