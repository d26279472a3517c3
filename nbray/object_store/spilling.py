"""What goes to disk, and when: a decision without I/O.

The object table counts three kinds of blocks: *clean* ones can be dropped at any time, since
the value is on disk or on another node too; *dirty* ones are complete, nobody reads them, and
this node's copy is the only one; all others are *held* by readers and writers. Writing a value
to disk makes its block clean and leaves it where it is, so a reader that comes back soon finds
it in memory, and room for a new object costs no wait for the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class StoreState:
    """Bytes of the arena, by what they are used for.

    Attributes:
        capacity: all of it.
        clean: blocks that can be dropped at once.
        used: all blocks, clean ones included.
        moving: blocks that are being written to disk now.
        wanted: what the creations that wait for room need.
    """

    capacity: int
    clean: int
    used: int
    moving: int
    wanted: int


def bytes_to_spill(state: StoreState, threshold: float) -> int:
    """How many more bytes should become clean.

    So many that no more than ``threshold`` of the arena stays needed, and that what waits fits.
    When it should fit already and still waits, the free room is in pieces: then anything helps.
    """
    needed = state.used - state.clean - state.moving
    allowed = min(int(state.capacity * threshold), max(0, state.capacity - state.wanted))
    if needed > allowed:
        return needed - allowed
    return 1 if state.wanted and not state.moving else 0


def next_batch(
    dirty: Iterable[tuple[bytes, int]], missing: int, file_bytes: int
) -> list[tuple[bytes, int]]:
    """The objects that are written into one file next; none when nothing is ``missing``.

    Args:
        dirty: objects and their sizes, those that were not read for longest first.
        missing: bytes, from `bytes_to_spill`.
        file_bytes: a file is filled up to this size, since many small ones are slow; a larger
            object has a file of its own.
    """
    batch: list[tuple[bytes, int]] = []
    if missing <= 0:
        return batch
    total = 0
    for object_id, size in dirty:
        if batch and total + size > file_bytes:
            break
        batch.append((object_id, size))
        total += size
        if total >= file_bytes:
            break
    return batch
