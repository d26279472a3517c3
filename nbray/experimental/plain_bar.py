"""A progress bar where tqdm is not there: it counts, and says now and then how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any


class PlainBar:
    """What `nbray.experimental.tqdm_ray` needs of tqdm, as lines on stderr."""

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: int | None = None,
        *,
        unit: str = "it",
        position: int | None = None,
        mininterval: float = 0.5,
    ) -> None:
        self.iterable = iterable
        self.desc = desc or ""
        self.n = 0
        self.total = total
        if total is None and isinstance(iterable, Sized):
            self.total = len(iterable)
        self._unit = unit
        self._interval = mininterval
        self._shown = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        for element in self.iterable or ():
            yield element
            self.update()
        self.close()

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:
        """Name the bar."""
        self.desc = desc or ""

    def update(self, n: int = 1) -> None:
        """Go so many steps on."""
        self.n += n
        if time.monotonic() - self._shown >= self._interval:
            self.refresh()

    def refresh(self) -> None:
        """Say how far it is."""
        self._shown = time.monotonic()
        of = "" if self.total is None else f"/{self.total}"
        self.write(f"{self.desc}: {self.n}{of} {self._unit}".lstrip(": "), file=sys.stderr)

    def close(self) -> None:
        """Say how far it came."""
        self.refresh()

    def __enter__(self) -> PlainBar:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @staticmethod
    def write(text: str, file: Any = None) -> None:
        """Print a line."""
        print(text, file=file or sys.stdout, flush=True)
