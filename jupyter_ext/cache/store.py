"""Answers in a folder: one file for each, signed, written whole or not at all, the oldest go first.

What is kept is unpickled, so nothing is read that this user has not written: a file counts if it
is a plain one of this user with mode 0600, and signed with a key that is in this user's home and
nowhere else. The signature is looked at before anything of the file is used, so a foreign, a cut
and a changed file are as if they were not there. The description, which lists are made of, is JSON.

    magic | signature of the description | its length | description | parts, aligned to 64 bytes

The description names its answer, so that no file can stand for another one, and has a digest of all
that follows. A file is written under another name, which its writer locks, and then renamed:
kernels do not disturb each other, and what a killed one leaves is found by its lock and removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import mmap
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nbray.common.secret_file import make_secret

_MAGIC = b"nbray-answer-01\n"
_ALIGNED = 64
_LONGEST_DESCRIPTION = 64 << 20
_ENDING = ".answer"


class NotOursError(OSError):
    """A file or folder may have been written by somebody else."""


@dataclass(frozen=True)
class Answer:
    """What was kept.

    Attributes:
        about: its description.
        parts: the memory of its parts, writable and nobody else's.
    """

    about: dict[str, Any]
    parts: list[memoryview]


@dataclass(frozen=True)
class Kept:
    """A file, by its description.

    Attributes:
        name: of the answer.
        about: its description.
        size: of the file.
        used: when it was written or last read.
    """

    name: str
    about: dict[str, Any]
    size: int
    used: float


def local_key(path: Path | None = None) -> bytes:
    """The key that answers are signed with; made when there is none.

    Raises:
        OSError: it cannot be read or made, or others may read it.
    """
    path = path or Path.home() / ".nbray" / "cache_key"
    if not path.exists():
        make_secret(path)
    with _own_file(path, os.O_RDONLY) as file:
        key: bytes = file.read(1024).strip()
    if len(key) < 32:
        raise NotOursError(f"{path} is too short for a key: remove it, and a new one is made")
    return key


class Store:
    """The answers in a folder.

    Attributes:
        folder: it.
        most: bytes that all together may have.
    """

    def __init__(self, folder: Path, key: bytes, most: int) -> None:
        self.folder = folder
        self.most = most
        self._key = key

    def read(self, name: str) -> Answer | None:
        """The answer of that name; None if there is none that this user has kept."""
        path = self._path(name)
        try:
            with _own_file(path, os.O_RDONLY) as file:
                about, begin = self._description(file, name)
                size = os.fstat(file.fileno()).st_size - begin
                if size != about["size"] or size > self.most:
                    return None
                memory = mmap.mmap(-1, max(1, size))
                view = memoryview(memory)[:size]
                if _read_whole(file, view) != size or _digest([view]) != about["digest"]:
                    return None
        except (OSError, ValueError, KeyError, TypeError):  # cut, foreign, or of other times
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return Answer(about, [view[at : at + length] for at, length in about["parts"]])

    def about(self, name: str) -> Kept | None:
        """The file of that name, by its description."""
        path = self._path(name)
        try:
            with _own_file(path, os.O_RDONLY) as file:
                about, _ = self._description(file, name)
                found = os.fstat(file.fileno())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Kept(name, about, found.st_size, found.st_mtime)

    def names(self) -> list[str]:
        """Of all files, the last used first."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_ENDING) and not entry.name.startswith("."):
                    with contextlib.suppress(OSError):
                        used = entry.stat(follow_symlinks=False).st_mtime
                        found.append((used, entry.name.removesuffix(_ENDING)))
        return [name for _, name in sorted(found, reverse=True)]

    def write(self, name: str, about: dict[str, Any], parts: Sequence[Any]) -> int:
        """Keep an answer, and let the oldest go that are too much with it; returns its size.

        Raises:
            OSError: it could not be written. ValueError: it is larger than all may be.
        """
        self._make_folder()
        self._remove_left()
        begin, places, pieces = 0, [], list[Any]()
        for part in parts:
            with memoryview(part) as view:
                length = view.nbytes
            places.append([begin, length])
            pieces += [part, bytes(-length % _ALIGNED)]
            begin += length + -length % _ALIGNED
        told = {**about, "name": name, "parts": places, "size": begin, "digest": _digest(pieces)}
        text = json.dumps(told).encode()
        head = self._signature(text) + len(text).to_bytes(8, "little") + text
        head += b" " * (-(len(_MAGIC) + len(head)) % _ALIGNED)
        total = len(_MAGIC) + len(head) + begin
        if total > self.most:
            raise ValueError(f"{total} bytes are more than the {self.most} that may be kept")
        new = self.folder / f".{name}.{secrets.token_hex(8)}.new"
        try:
            with _own_file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for piece in (_MAGIC, head, *pieces):
                    file.write(piece)
                file.flush()
                os.replace(new, self._path(name))
        finally:
            new.unlink(missing_ok=True)
        self._make_room(name)
        return total

    def drop(self, name: str) -> bool:
        """Remove one; False if there was none."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def total(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size, _ in self._files())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_ENDING}"

    def _signature(self, text: bytes) -> bytes:
        return hmac.digest(self._key, _MAGIC + text, "sha256")

    def _description(self, file: BinaryIO, name: str) -> tuple[dict[str, Any], int]:
        """What stands in front, and where the parts begin.

        Raises:
            ValueError: it is not signed, or of another answer.
        """
        head = file.read(len(_MAGIC) + 40)
        length = int.from_bytes(head[-8:], "little")
        if head[: len(_MAGIC)] != _MAGIC or length > _LONGEST_DESCRIPTION:
            raise ValueError("no answer")
        text = file.read(length)
        if not hmac.compare_digest(head[len(_MAGIC) : -8], self._signature(text)):
            raise ValueError("not signed with this key")
        about = json.loads(text)
        if about["name"] != name:
            raise ValueError("an answer to something else")
        begin = len(head) + length
        begin += -begin % _ALIGNED
        file.seek(begin)
        return about, begin

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(self.folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise NotOursError(f"{self.folder} is not a folder of this user's")
        ignored = self.folder / ".gitignore"
        if not ignored.exists():
            ignored.write_text("*\n")

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_ENDING):
                    with contextlib.suppress(OSError):  # another kernel has removed it
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_mtime, found.st_size, Path(entry.path)

    def _make_room(self, but: str) -> None:
        files = sorted(self._files(), reverse=True)
        left = self.most
        kept = self._path(but)
        left -= sum(size for _, size, path in files if path == kept)
        for _, size, path in files:
            if path == kept:
                continue
            left -= size
            if left < 0:
                path.unlink(missing_ok=True)

    def _remove_left(self) -> None:
        """Remove what killed kernels were writing: nobody holds its lock."""
        for path in self.folder.glob(".*.new"):
            with contextlib.suppress(OSError), _own_file(path, os.O_RDONLY) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_size or time.time() - path.stat().st_mtime > _OLD_S:
                    path.unlink(missing_ok=True)


_OLD_S = 60.0
"""A file that is empty and younger may be about to be locked."""


@contextlib.contextmanager
def _own_file(path: Path, flags: int) -> Iterator[BinaryIO]:
    """A plain file of this user, which nobody else may read or write.

    Raises:
        OSError: there is none, or it is not.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    with os.fdopen(descriptor, "wb" if flags & os.O_WRONLY else "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise NotOursError(f"{path} is not a file of this user's")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise NotOursError(f"others may read {path}: chmod 600 {path}")
        yield file


def _read_whole(file: BinaryIO, view: memoryview) -> int:
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):  # type: ignore[attr-defined]
        done += count
    return done


def _digest(pieces: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
