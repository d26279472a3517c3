"""A raylet tells the GCS again what was not heard, and gives it up by its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from nbray.common.config import Config
from nbray.raylet.watch import reporting
from nbray.raylet.watch.reporting import Reporter
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.records import NodeInfo

ROW = NodeInfo(b"n", "", 0, 0, "", False, True, {}, {})


class Gcs:
    """Answers the reports, by their numbers, that it is told to."""

    def __init__(self, answers: Callable[[int], bool], period_s: float) -> None:
        self._answers = answers
        self._period_s = period_s
        self.timeouts: list[float] = []
        self.heard = asyncio.Event()

    async def call(self, _method: str, _request: Any, _type: Any, timeout: float) -> g.Reported:
        self.timeouts.append(timeout)
        if not self._answers(len(self.timeouts)):
            raise RpcError("no answer")
        self.heard.set()
        return g.Reported(self._period_s, 0.01)


def reporter(gcs: Gcs, config: Config, changed: asyncio.Event) -> Reporter:
    return Reporter(
        cast(GrpcClient, gcs), config, lambda: g.Report(ROW), lambda: None, changed
    )  # fmt: skip


async def heard_and_told_a_change(gcs: Gcs, changed: asyncio.Event) -> None:
    """Until the first report was heard, and one of a change after it."""
    async with asyncio.timeout(30):
        await gcs.heard.wait()
        gcs.heard.clear()
        changed.set()
        await gcs.heard.wait()


def test_a_change_that_was_not_heard_is_told_again_before_a_period_is_over() -> None:
    async def check() -> None:
        gcs = Gcs(lambda number: number not in (2, 3), period_s=3600.0)
        changed = asyncio.Event()
        running = asyncio.create_task(reporter(gcs, Config(), changed).run())
        await heard_and_told_a_change(gcs, changed)
        assert len(gcs.timeouts) == 4
        running.cancel()

    asyncio.run(check())


def test_a_gcs_of_many_nodes_has_as_long_to_answer_as_it_has_them_wait() -> None:
    async def check() -> None:
        for period_s, allowed_s in ((0.5, 2.0), (6.5, 6.5), (3600.0, 10.0)):
            gcs, changed = Gcs(lambda number: True, period_s), asyncio.Event()
            running = asyncio.create_task(reporter(gcs, Config(), changed).run())
            await heard_and_told_a_change(gcs, changed)
            running.cancel()
            assert gcs.timeouts == [2.0, allowed_s]
            joined = reporter(gcs, Config(), changed)
            joined.answered(g.Reported(period_s, 0.01))
            gcs.heard.clear()
            running = asyncio.create_task(joined.run())
            async with asyncio.timeout(30):
                await gcs.heard.wait()
            running.cancel()
            assert gcs.timeouts[2:] == [allowed_s]

    asyncio.run(check())


def test_a_node_that_seldom_reports_gives_a_silent_gcs_up_as_soon_as_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "_TIMEOUT_S", 0.1)
    config = Config(raylet_report_period_s=0.05, gcs_rpc_server_reconnect_timeout_s=1.0)

    async def check() -> None:
        gcs = Gcs(lambda number: number == 1, period_s=1.5)
        async with asyncio.timeout(60):
            await reporter(gcs, config, asyncio.Event()).run()
        # Each is 1.5 s after the one before, of which a tenth would count if nobody looked.
        assert len(gcs.timeouts) <= 4

    asyncio.run(check())
