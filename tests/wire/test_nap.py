"""The sleep that others put off."""

from __future__ import annotations

import gc
import os
import threading
import time

from nbray.wire.nap import Nap


def test_who_is_put_off_sleeps_on_and_ends_when_nobody_does_so_any_more() -> None:
    nap, longest = Nap(), 1.0
    while longest > 0.7:  # a machine so busy that it was not put off in time: once more
        sleeper = threading.Thread(target=nap.sleep, args=(0.8,), daemon=True)
        sleeper.start()
        longest, last = 0.0, time.monotonic()
        for _ in range(6):
            sleeper.join(0.2)
            nap.put_off(0.8)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert sleeper.is_alive()

    nap.put_off(0.001)
    sleeper.join(30.0)
    assert not sleeper.is_alive()


def test_a_nap_that_nobody_puts_off_takes_as_long_as_said() -> None:
    nap = Nap()
    nap.put_off(0.001)  # and is over before anybody sleeps: that counts for no other nap
    time.sleep(0.05)
    began = time.monotonic()

    nap.sleep(0.2)

    assert time.monotonic() - began >= 0.19


def test_its_descriptor_is_given_back_with_it() -> None:
    gc.collect()  # those of tests before this one
    before = _timers()
    nap, other = Nap(), Nap()
    own = _timers() - before
    assert len(own) == 2

    nap.close()
    del other
    gc.collect()

    assert not own & _timers()


def _timers() -> set[str]:
    with os.scandir("/proc/self/fd") as found:
        return {entry.name for entry in found if "timerfd" in _target(entry.path)}


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""  # that of the look itself
