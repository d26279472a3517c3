"""What of a folder goes into a package, and whether that has changed since."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

logger = logging.getLogger(__name__)

MOST_FILES = 200_000
_ALWAYS_EXCLUDED = (".git/", "__pycache__/", ".venv/", "*.pyc", ".ipynb_checkpoints/")
_CHEAP_S = 0.0005
_PAUSE = 3.0
_TICK_NS = 50_000_000

_Rules = list[tuple[Path, "GitIgnoreSpec"]]
_Above = dict[tuple[int, int], Path]
_Stamp = tuple[int, int, int, int] | None


class PackageError(Exception):
    """A folder cannot be packed, or a package cannot be unpacked; the text says why."""


class Look:
    """What was seen of the files of a package, for a cheap look at whether they have changed.

    Each file and each folder is asked for its times and size. Where that takes long, with thousands
    of files, it is not done again within three times as long: so ten thousand submissions do not
    wait for ten thousand looks. One that took long once did not run meanwhile, on a busy machine.
    """

    def __init__(self) -> None:
        self._stamps: dict[str, _Stamp] = {}
        self._seen = 0.0
        self._seconds = self._last_s = 0.0
        self._is_fresh = False

    def note(self, path: str | Path) -> None:
        """That file or folder is looked at from now on; to be called before it is read."""
        stamp = self._stamps[str(path)] = _stamp(path)
        # Two writes within one tick of the clock leave the same time.
        if stamp is not None and stamp[1] > time.time_ns() - _TICK_NS:
            self._is_fresh = True

    def has_changed(self) -> bool:
        """Whether anything is another than when it was noted, or may be."""
        if self._is_fresh:
            return True
        began = time.perf_counter()
        if self._seconds > _CHEAP_S and began - self._seen < _PAUSE * self._seconds:
            return False
        changed = any(_stamp(path) != stamp for path, stamp in self._stamps.items())
        self._seen = time.perf_counter()
        before, self._last_s = self._last_s, self._seen - began
        self._seconds = min(before, self._last_s)
        return changed


def _stamp(path: str | Path) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def files_of(
    path: Path, excludes: Sequence[str], keep_name: bool, look: Look
) -> list[tuple[Path, str]]:
    """The files of a folder that are to be packed, with their names in the package, sorted.

    Links are followed, also those to folders, unless one leads back to where it is.

    Raises:
        PackageError: there are too many.
    """
    if path.is_file():
        look.note(path)
        return [(path, path.name)]
    prefix = f"{path.name}/" if keep_name else ""
    walk = _Walk(path, prefix, look)
    walk.take(path, [(path, _spec([*_ALWAYS_EXCLUDED, *excludes], "excludes"))])
    return sorted(walk.found)


def _spec(lines: Sequence[str], where: str) -> GitIgnoreSpec:
    import pathspec  # only who sends files needs it

    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except (ValueError, re.error) as error:
        bad = next((line for line in lines if not _is_pattern(line)), "")
        raise PackageError(
            f"{bad[:200]!r} in {where} is no pattern as of .gitignore: {error}."
        ) from error


def _is_pattern(line: str) -> bool:
    import pathspec

    try:
        pathspec.GitIgnoreSpec.from_lines([line])
    except (ValueError, re.error):
        return False
    return True


class _Walk:
    def __init__(self, root: Path, prefix: str, look: Look) -> None:
        self.found: list[tuple[Path, str]] = []
        self._root = root
        self._prefix = prefix
        self._look = look
        self._folders = 0

    def take(self, root: Path, rules: _Rules) -> None:
        # No recursion: a folder may be deeper than Python's stack.
        self._left: list[tuple[Path, _Rules, _Above]] = [(root, rules, {})]
        while self._left:
            self._enter(*self._left.pop())

    def _enter(self, folder: Path, rules: _Rules, above: _Above) -> None:
        self._look.note(folder)
        self._folders += 1
        where = os.stat(folder)
        above = {**above, (where.st_dev, where.st_ino): folder}
        ignored = folder / ".gitignore"
        if ignored.is_file():
            self._look.note(ignored)
            lines = ignored.read_text(errors="replace").splitlines()
            rules = [*rules, (folder, _spec(lines, str(ignored)))]
        for entry in sorted(os.scandir(folder), key=lambda found: found.name):
            path = Path(entry.path)
            slash = "/" if entry.is_dir() else ""
            if any(spec.match_file(f"{path.relative_to(base)}{slash}") for base, spec in rules):
                continue
            if entry.is_dir():
                self._enter_inner(entry, path, rules, above)
            elif entry.is_file():
                self._look.note(path)
                name = self._prefix + path.relative_to(self._root).as_posix()
                self.found.append((path, name))
            elif entry.is_symlink():
                logger.warning("%s is not sent: it is a link to nothing.", path)
            self._check_count()

    def _enter_inner(
        self,
        entry: os.DirEntry[str],
        path: Path,
        rules: _Rules,
        above: _Above,
    ) -> None:
        if entry.is_symlink():
            target = entry.stat()
            back = above.get((target.st_dev, target.st_ino))
            if back is not None:
                logger.warning("%s is not sent: it is a link back to %s.", path, back)
                return
        self._left.append((path, rules, above))

    def _check_count(self) -> None:
        if len(self.found) + self._folders > MOST_FILES:
            raise PackageError(
                f"{self._root} has more than {MOST_FILES:,} files and folders, links followed. "
                "Exclude some by the field 'excludes' of the runtime environment or by a "
                ".gitignore file."
            )
