"""A sleep that others put off without waking who sleeps.

A thread that only looks now and then whether it is needed still takes the interpreter's lock for
each look, from whoever runs: beside a loop of calls that wait one by one, every look delays a call
by as much as the call takes. The kernel's timer is set on by those that run, and expires when
nobody has done so for a while.
"""

from __future__ import annotations

import ctypes
import os
import time
import weakref


class _Spec(ctypes.Structure):
    """``struct itimerspec``: how often, and when for the first time, in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


# They never block, so they keep the interpreter's lock, which to give away and take costs more.
_libc = ctypes.PyDLL(None, use_errno=True)


class Nap:
    """The sleep of one thread."""

    def __init__(self) -> None:
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.close = weakref.finalize(self, os.close, self._fd)
        """Give the descriptor back."""
        self.close.atexit = False
        self._set = _libc.timerfd_settime
        self._times: dict[float, object] = {}

    def put_off(self, seconds: float) -> None:
        """Who sleeps goes on so long from now; from any thread."""
        spec = self._times.get(seconds)
        if spec is None:
            spec = self._times[seconds] = ctypes.byref(_Spec(0, 0, 0, int(seconds * 1e9)))
        self._set(self._fd, 0, spec, None)

    def sleep(self, seconds: float) -> None:
        """Sleep for less than a second, or until nobody has put the end off for as long as said."""
        self.put_off(seconds)
        os.read(self._fd, 8)
