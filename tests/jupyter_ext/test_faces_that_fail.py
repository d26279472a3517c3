"""What fails of one cell, or of one look at the cluster, stops nothing else that is shown."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.no_threads import no_thread_left

from nbray.jupyter_ext.output.router import OutputRouter
from nbray.jupyter_ext.widgets import feed as feeds
from nbray.jupyter_ext.widgets.cluster_view import ClusterSnapshot


def test_a_cell_whose_output_cannot_be_shown_keeps_that_of_no_other() -> None:
    shown: list[int] = []

    class Router(OutputRouter):
        def _flush(self, cell: Any, now: float, final: bool = False, panel: bool = True) -> None:
            if cell.number == 1:
                raise MemoryError
            shown.append(cell.number)

    router = Router(None, lambda: "In [1]")
    try:
        for _ in range(2):
            router.before_cell()
        with router._lock:
            router._active.update((1, 2))
        router._tick()
        assert 2 in shown and not router._active
    finally:
        router.close()


def test_a_look_that_fails_is_told_and_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "PERIOD_S", 0.0)
    came, found = threading.Event(), list[ClusterSnapshot]()

    def look(_in_flight: object) -> ClusterSnapshot:
        if not found:
            raise MemoryError
        return ClusterSnapshot(error="the next one")

    class Api:
        def is_initialized(self) -> bool:
            return True

    class Engine:
        api = Api()

    monkeypatch.setattr(feeds, "engine", Engine)
    monkeypatch.setattr(feeds, "take_snapshot", look)
    monkeypatch.setattr(feeds.Feed, "_in_flight", lambda _feed: {})
    feed = feeds.Feed()

    def told(snapshot: ClusterSnapshot) -> None:
        found.append(snapshot)
        if len(found) > 1:
            came.set()

    with no_thread_left(), pytest.raises(RuntimeError, match="new thread"):
        feed.subscribe(told)
    feed.subscribe(told)
    assert came.wait(30)
    feed.unsubscribe(told)
    assert "MemoryError" in found[0].error and found[1].error == "the next one"
