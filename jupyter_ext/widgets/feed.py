"""One subscription to the cluster for all widgets of a notebook: it runs while one is shown."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable

from nbray.exceptions import NbrayError
from nbray.notebook import engine

from ..output.counts import counts_now
from .cluster_view import ClusterSnapshot, take_snapshot

logger = logging.getLogger(__name__)

PERIOD_S = 0.5
Subscriber = Callable[[ClusterSnapshot], None]


class Feed:
    """Asks twice a second while there are subscribers, in a thread of its own, and tells them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may end a view meanwhile
        self._subscribers: list[Subscriber] = []
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._at_the_end: list[weakref.WeakMethod[Subscriber]] = []

    @property
    def running(self) -> bool:
        """Whether the cluster is asked now."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Tell ``subscriber`` from now on, on the feed's thread."""
        with self._lock:
            if subscriber not in self._subscribers:
                self._subscribers.append(subscriber)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="nbray-feed", daemon=True)
                thread.start()
                self._thread = thread

    def say_at_the_end(self, subscriber: Subscriber) -> None:
        """Tell ``subscriber`` when this kernel ends, also one that is not shown at that moment."""
        atexit.unregister(self._end)
        atexit.register(self._end)  # the last one is the first: the cluster is left later
        living = [reference for reference in self._at_the_end if reference() is not None]
        self._at_the_end = [*living, weakref.WeakMethod(subscriber)]

    def _end(self) -> None:
        """The figures would look as if they were those of now."""
        gone = ClusterSnapshot(
            error="The kernel that fed this has ended: run the cell again.", is_last=True
        )
        for reference in self._at_the_end:
            if (subscriber := reference()) is not None:
                try:
                    subscriber(gone)
                except Exception:
                    logger.exception("A view of the cluster could not be told of the end.")

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Do not tell it any more; without subscribers the thread ends."""
        with self._lock:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)
        self._changed.set()

    def refresh(self) -> None:
        """Ask at once."""
        self._changed.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                subscribers = list(self._subscribers)
                if not subscribers:
                    self._thread = None
                    return
            snapshot = self.snapshot()
            for subscriber in subscribers:
                try:
                    subscriber(snapshot)
                except Exception:
                    logger.exception("A view of the cluster could not be brought up to date.")
            self._changed.wait(PERIOD_S)
            self._changed.clear()

    def snapshot(self) -> ClusterSnapshot:
        """The cluster now, or why it cannot be told."""
        if not engine().api.is_initialized():
            return ClusterSnapshot(error="This notebook is in no cluster: %nbray start --head.")
        try:
            return take_snapshot(self._in_flight())
        except (NbrayError, OSError) as error:
            return ClusterSnapshot(error=f"The cluster does not answer: {error}")
        except Exception as error:  # the views wait for the next, which this thread brings
            logger.exception("The cluster could not be looked at.")
            return ClusterSnapshot(error=f"The cluster could not be looked at: {error!r}")

    def _in_flight(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for row in counts_now(1.0):
            if row.unfinished:
                running, waiting = found.get(row.name, (0, 0))
                found[row.name] = (
                    running + row.running,
                    waiting + row.unfinished - row.running,
                )
        return found
