"""Work that is done to its end, whoever waits for it."""

from __future__ import annotations

import asyncio

import pytest

from nbray.common import background
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


def test_what_goes_on_for_ever_begins_anew_after_an_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_AGAIN_S", 0.0)
    asyncio.run(_for_ever())
    assert caplog.text.count("begins anew") == caplog.text.count("OSError: no room for now") == 2


async def _for_ever() -> None:
    begun, goes_on = list[int](), asyncio.Event()

    async def look() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise OSError("no room for now")
        goes_on.set()
        await asyncio.Event().wait()

    Background().forever(look)
    await goes_on.wait()
    assert begun == [0, 1, 2]
