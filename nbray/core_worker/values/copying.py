"""Large copies into shared memory: without the interpreter's lock, by two threads if cores idle.

A slice assignment of a memoryview holds the lock for as long as it takes, which stops the
thread that serves the sockets; NumPy's copy does not.
"""

from __future__ import annotations

import os
import threading

_PLAIN_BYTES = 1 << 20
_SPLIT_BYTES = 8 << 20


def copy_into(target: memoryview, source: memoryview) -> None:
    """Copy all of ``source`` into ``target``; both are contiguous bytes of the same length."""
    size = len(source)
    if size < _PLAIN_BYTES:
        target[:] = source
        return
    import numpy as np  # nothing smaller needs it, and to import it takes a while

    into, of = np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8)
    if size < _SPLIT_BYTES or not _core_is_idle():
        np.copyto(into, of)
        return
    half = size // 2
    helper = threading.Thread(target=np.copyto, args=(into[half:], of[half:]))
    try:
        helper.start()
    except RuntimeError:  # there are no more threads at the moment
        np.copyto(into, of)
        return
    try:
        np.copyto(into[:half], of[:half])
    finally:
        helper.join()  # nobody writes the target any more when this returns


def _core_is_idle() -> bool:
    cores = len(os.sched_getaffinity(0))
    return cores > 1 and os.getloadavg()[0] < cores - 0.5
