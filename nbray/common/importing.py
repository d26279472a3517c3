"""Imports that a file of the current folder cannot get in the way of."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from nbray.common.folders import current_folder


class _OtherFolders:
    """Finds what one thread imports everywhere but in the current folder, which comes last."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._here = {"", ".", current_folder()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's place; None leaves it to the other finders."""
        if path is not None or threading.get_ident() != self._thread:
            return None
        elsewhere = [entry for entry in sys.path if entry not in self._here]
        return PathFinder.find_spec(fullname, elsewhere, target)


@contextmanager
def current_folder_last() -> Iterator[None]:
    """What this thread imports meanwhile is what is installed, whatever lies in the folder.

    A notebook's folder is the first entry of ``sys.path``: a ``queue.py`` there would be taken for
    Python's own by whatever imports that late. Other threads import as before.
    """
    finder = _OtherFolders()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
