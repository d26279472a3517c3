"""Files in /dev/shm, which all programs of this machine share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nbray.testing import wait_until

SHARED = Path("/dev/shm")
_MAPPED = re.compile(rf"{SHARED}/([^/\n]+)")
_PID = re.compile(r"\d+")


def of_others(names: set[str]) -> set[str]:
    """Those of the files that another program has: open, mapped, or by its pid in the name."""
    found = {name for name in names for pid in _PID.findall(name) if _is_other(pid)}
    for process in Path("/proc").glob("[0-9]*"):
        if names <= found:
            break
        if not _is_other(process.name):
            continue
        with suppress(OSError):  # it ends, or is not ours to look at
            found.update(_MAPPED.findall((process / "maps").read_text()))
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    found.update(_MAPPED.findall(os.readlink(descriptor)))
    return found & names


def _is_other(pid: str) -> bool:
    return pid != str(os.getpid()) and Path("/proc", pid).exists()


@contextmanager
def no_shared_file_left(timeout: float = 60.0) -> Iterator[None]:
    """What runs here leaves no file there; others may make some meanwhile, and keep them."""
    before = set(os.listdir(SHARED))
    yield

    def left() -> set[str]:
        new = set(os.listdir(SHARED)) - before
        return new - of_others(new) if new else new

    try:
        wait_until(lambda: not left(), f"the end of all files in {SHARED}", timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}: {sorted(left())}") from None
