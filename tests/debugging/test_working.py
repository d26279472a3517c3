"""Where the user's code is at work: nbray's frames and threads that wait are left out."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from nbray.debugging.marks import IDLE
from nbray.debugging.working import working


def _seen_from_a_thread(seconds: float = 0.3) -> Counter[str]:
    """As a worker is looked at: by a thread, while the main one works."""
    found: list[Counter[str]] = []
    begun = threading.Event()

    def look() -> None:
        begun.wait()
        found.append(working(seconds, 100))

    thread = threading.Thread(target=look)
    thread.start()
    _sums(thread, begun)
    return found[0]


def _sums(until: threading.Thread, begun: threading.Event) -> None:
    begun.set()
    while until.is_alive():
        sum(range(1000))


def test_times_are_of_the_users_frames_and_make_up_what_passed() -> None:
    counts = _seen_from_a_thread()
    mine = {stack: ms for stack, ms in counts.items() if "_sums" in stack}
    assert mine and IDLE not in counts
    assert all(not stack.startswith("MainThread") for stack in mine)
    assert sum(mine.values()) >= 200


def test_a_pool_that_has_nothing_to_do_is_not_shown_and_one_that_works_is() -> None:
    begun, over = threading.Event(), threading.Event()

    def digs() -> None:
        begun.set()
        while not over.is_set():
            time.sleep(0.001)

    with ThreadPoolExecutor(2, "idlers") as idle, ThreadPoolExecutor(1, "diggers") as busy:
        idle.submit(int).result()
        work = busy.submit(digs)
        begun.wait()
        counts = _seen_from_a_thread()
        over.set()
        work.result()
    assert any(stack.startswith("diggers") and "digs" in stack for stack in counts)
    assert not any(stack.startswith("idlers") for stack in counts)
