"""Logs with a bound: the newest part in the log itself, older ones in pieces beside it.

Who writes a log holds it open for ever: a worker's C code, and subprocesses that inherited it.
So a log is never replaced: what it holds is copied into a piece, and then it is emptied. Everybody
appends (``O_APPEND``), and goes on at the new end. What somebody else writes between the last look
and the emptying, some microseconds, is lost.

A piece of ``NAME`` is called ``NAME.END``, where END is the place behind its last byte, counted
from the first byte that was ever written. So whoever follows a log by such places misses nothing
and reads nothing twice, as long as the pieces are kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 16
_COPIED_AT_ONCE = 1 << 20
_LOCK = struct.Struct("hhqqi4x")  # C's struct flock


@dataclass(frozen=True)
class Piece:
    """A part of a log: the places of its first byte and behind its last, and its file."""

    start: int
    end: int
    path: Path


class Log:
    """A log with its pieces, for reading. Reads what there is at the moment of each call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def base(self) -> int:
        """The place of the first byte that the log itself holds."""
        return max((end for end, _ in self._older()), default=0)

    def pieces(self) -> list[Piece]:
        """All that is kept, the oldest first, the log itself last.

        Raises:
            FileNotFoundError: there is no such log.
        """
        while True:
            older = sorted(self._older())
            size = self.path.stat().st_size
            if sorted(self._older()) == older:  # else it was just rotated
                break
        found = []
        for end, path in older:
            with contextlib.suppress(FileNotFoundError):  # it was just dropped
                found.append(Piece(end - path.stat().st_size, end, path))
        base = older[-1][0] if older else 0
        return [*found, Piece(base, base + size, self.path)]

    def read(self, place: int, most: int) -> tuple[bytes, int]:
        """What is kept from ``place`` on, at most so many bytes, and the place behind it."""
        for piece in self.pieces():
            if place < piece.end:
                place = max(place, piece.start)
                data = _read(piece, place, most)
                if piece.path != self.path or self.base() == piece.start:
                    return data, place + len(data)
                return self.read(place, most)  # it was rotated meanwhile
        return b"", place

    def last_lines(self, lines: int) -> int:
        """The place where the last ``lines`` lines begin; of all that is kept if they are fewer."""
        pieces = self.pieces()
        missing, first = lines + 1, True  # the last line ends by a line break of its own
        for piece in reversed(pieces):
            place = piece.end
            while place > piece.start:
                size = min(_BLOCK, place - piece.start)
                block = _read(piece, place - size, size)
                if first and not block.endswith(b"\n"):
                    missing -= 1
                first = False
                for index in range(len(block) - 1, -1, -1):
                    if block[index] == 10:
                        missing -= 1
                        if not missing:
                            return place - size + index + 1
                place -= size
        return pieces[0].start

    def end(self) -> int:
        """The place behind its last byte.

        Raises:
            FileNotFoundError: there is no such log.
        """
        return self.pieces()[-1].end

    def size(self) -> int:
        """Bytes that are kept."""
        return sum(piece.end - piece.start for piece in self.pieces())

    def text(self) -> str:
        """All that is kept."""
        return self.tail(self.size()).decode(errors="replace")

    def tail(self, most: int) -> bytes:
        """The last bytes; none when there is no such log."""
        try:
            pieces = self.pieces()
            found = b""
            for piece in reversed(pieces):
                left = most - len(found)
                if left <= 0:
                    break
                found = _read(piece, max(piece.start, piece.end - left), left) + found
        except FileNotFoundError:
            return b""
        return found

    def rotate(self, most: int, pieces_kept: int) -> bool:
        """Empty the log into a piece if it has more than ``most`` bytes; whether it did.

        Whoever finds it too large may do so; of two at the same time one does. Of a log that has
        more than twice as much, as nobody rotated it in time, only the last ``most`` bytes stay.
        """
        with contextlib.ExitStack() as stack:
            log = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, log)
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            size = os.fstat(log).st_size
            if size <= most:
                return False
            older = sorted(self._older())
            base = older[-1][0] if older else 0
            for _, path in older[: max(0, len(older) + 1 - max(1, pieces_kept))]:
                path.unlink(missing_ok=True)
            new = self.path.with_name(f".{self.path.name}.new")
            stack.callback(new.unlink, missing_ok=True)
            start = (size - most if size > 2 * most else 0) if pieces_kept else size
            end = _copy(log, start, size + most if pieces_kept else size, new)
            os.ftruncate(log, 0)
            new.rename(self.path.with_name(f"{self.path.name}.{base + end}"))
            return True

    def _older(self) -> list[tuple[int, Path]]:
        start = f"{self.path.name}."
        folder = self.path.parent
        try:
            names = os.listdir(folder)  # a third of the time of `scandir`
        except FileNotFoundError:
            return []
        ends = [name[len(start) :] for name in names if name.startswith(start)]
        return [(int(end), folder / f"{start}{end}") for end in ends if end.isdecimal()]


def is_piece(name: str) -> bool:
    """Whether a file of a log folder is a piece, or one that is being made."""
    return name.startswith(".") or name.rpartition(".")[2].isdecimal()


def mark_as_written(descriptor: int) -> None:
    """Say that a log is being written, as long as any process has this descriptor, or a copy."""
    with contextlib.suppress(OSError):  # somebody who has one still does; or no such locks here
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))


def is_being_written(path: Path) -> bool:
    """Whether a process has a descriptor of it that was marked."""
    try:
        with path.open("rb") as file:
            found = fcntl.fcntl(file.fileno(), fcntl.F_OFD_GETLK, _lock(fcntl.F_RDLCK))
    except OSError:
        return False
    return bool(_LOCK.unpack(found)[0] != fcntl.F_UNLCK)


def _lock(kind: int) -> bytes:
    """A lock on the whole file that belongs to an open descriptor and its copies.

    Not one of ``flock``, by which two who would rotate a log keep out of each other's way.
    """
    return _LOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _read(piece: Piece, place: int, most: int) -> bytes:
    try:
        with piece.path.open("rb") as file:
            return os.pread(file.fileno(), min(most, piece.end - place), place - piece.start)
    except FileNotFoundError:
        return b""


def _copy(log: int, start: int, most: int, new: Path) -> int:
    """Copy a log from ``start`` to its end, which is returned, into a new file.

    It ends at about ``most`` at the latest, since somebody may write as fast as this.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o600)
    try:
        while start < most and (copied := os.sendfile(descriptor, log, start, _COPIED_AT_ONCE)):
            start += copied
    finally:
        os.close(descriptor)
    return start
