"""Work that is done to its end, whoever waits for it."""

from __future__ import annotations

import asyncio

import pytest

from nbray.common.background import Background


def test_work_that_is_done_whole_begins_first_and_ends_without_who_waits_for_it() -> None:
    asyncio.run(_done_whole())


async def _done_whole() -> None:
    background, told, may_end = Background(), list[str](), asyncio.Event()

    async def change() -> str:
        told.append("began")
        await may_end.wait()
        told.append("ended")
        return "changed"

    async def look() -> None:
        told.append("looked")

    waiting = asyncio.create_task(background.whole(change()))
    await asyncio.create_task(look())
    assert told == ["began", "looked"]
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    other = asyncio.create_task(background.whole(change()))
    may_end.set()
    assert await other == "changed" and told.count("ended") == 2


def test_an_error_of_work_that_nobody_waits_for_any_more_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asyncio.run(_failing())
    assert "it was half done" in caplog.text


async def _failing() -> None:
    background, may_end = Background(), asyncio.Event()

    async def fail() -> None:
        await may_end.wait()
        raise ValueError("it was half done")

    waiting = asyncio.create_task(background.whole(fail()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    for _ in range(5):
        await asyncio.sleep(0)
