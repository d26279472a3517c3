"""The loop of an async actor drives the sockets of its process while it waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import selectors
import threading
import time
from pathlib import Path

import pytest

import nbray
from nbray.core_worker.current import joined_core
from nbray.core_worker.run.loop_selector import LoopSelector
from nbray.exceptions import TaskCancelledError
from nbray.testing import wait_until
from nbray.wire.reactor import Reactor


@nbray.remote
class Loop:
    """Does with its event loop what programs do."""

    def __init__(self) -> None:
        self.begun = 0

    async def quick(self) -> str:
        return nbray.get_runtime_context().get_task_id() or ""

    async def block(self, until: Path) -> None:
        (until.parent / "blocks").touch()
        while not until.exists():
            time.sleep(0.01)  # with no `await`

    async def piped(self, text: bytes) -> bytes:
        """What another thread writes to a pipe."""
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        with os.fdopen(read_end, "rb") as pipe:
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
            threading.Timer(0.05, lambda: (os.write(write_end, text), os.close(write_end))).start()
            return await reader.read()

    async def program(self, text: str) -> bytes:
        process = await asyncio.create_subprocess_exec("echo", text, stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    async def of_others(self, refs: list[nbray.ObjectRef]) -> int:
        return sum(await asyncio.gather(*refs))

    async def settled_outside(self, refs: list[nbray.ObjectRef]) -> list[bool]:
        """Whether what the message of a value calls is outside of the loop."""
        outside: list[bool] = []
        for ref in refs:
            future: concurrent.futures.Future[object] = concurrent.futures.Future()
            future.add_done_callback(lambda _: outside.append(asyncio._get_running_loop() is None))
            joined_core().settle(ref, future)
        while len(outside) < len(refs):
            await asyncio.sleep(0.01)
        return outside

    async def awaited(self, number: int) -> int:
        """Awaits a value that is there before it waits."""
        return int(await nbray.put(number))

    async def in_a_thread(self) -> int:
        return await asyncio.to_thread(lambda: nbray.get(nbray.put(7)))

    async def within(self, seconds: float) -> bool:
        """What only a task may do, before anything is awaited."""
        async with asyncio.timeout(seconds):
            return asyncio.current_task() in asyncio.all_tasks()

    async def wait_for(self, path: Path) -> str:
        while not path.exists():
            await asyncio.sleep(0.01)
        return path.name

    async def meet(self, count: int) -> int:
        """Ends when ``count`` calls have begun."""
        self.begun += 1
        while self.begun < count:
            await asyncio.sleep(0.001)
        return self.begun


def test_a_coroutine_that_blocks_the_loop_holds_up_no_reply_before_it(
    cluster: Path, tmp_path: Path
) -> None:
    loop = Loop.remote()
    nbray.get([loop.quick.remote() for _ in range(100)])
    before = [loop.quick.remote() for _ in range(5)]
    blocks = loop.block.remote(tmp_path / "on")
    wait_until((tmp_path / "blocks").exists, "a coroutine that blocks")
    assert len(nbray.get(before, timeout=60.0)) == 5
    behind = loop.quick.remote()
    (tmp_path / "on").touch()
    assert nbray.get([blocks, behind], timeout=60.0)[0] is None


def test_what_coroutines_wait_for_besides_calls_arrives(cluster: Path) -> None:
    loop = Loop.remote()

    @nbray.remote
    def three() -> int:
        return 3

    assert nbray.get(loop.piped.remote(b"by a thread"), timeout=60.0) == b"by a thread"
    assert nbray.get(loop.program.remote("by a program"), timeout=20.0) == b"by a program\n"
    assert nbray.get(loop.of_others.remote([three.remote() for _ in range(3)]), timeout=20.0) == 9
    assert nbray.get(loop.in_a_thread.remote(), timeout=60.0) == 7
    assert nbray.get([loop.meet.remote(50) for _ in range(50)], timeout=20.0) == [50] * 50


def test_what_messages_bring_about_is_outside_of_the_loop(cluster: Path) -> None:
    """Else asyncio would leave it to the loop's next turn, for which nobody wakes it."""
    loop = Loop.remote()

    @nbray.remote
    def late(number: int) -> int:
        time.sleep(0.05)  # until the loop waits
        return number

    outside = nbray.get(loop.settled_outside.remote([late.remote(n) for n in range(8)]), timeout=60)
    assert outside == [True] * 8
    assert nbray.get(loop.awaited.remote(3), timeout=60) == 3


def test_each_of_many_calls_knows_its_own_task(cluster: Path) -> None:
    """Replies leave, and calls come, in the midst of others' coroutines."""
    loop = Loop.remote()
    refs = [loop.quick.remote() for _ in range(300)]
    assert nbray.get(refs, timeout=20.0) == [ref.task_id().hex() for ref in refs]


def test_the_first_step_of_a_call_is_a_task_s_and_none_is_in_another_s_context(
    cluster: Path,
) -> None:
    loop = Loop.remote()
    assert nbray.get([loop.within.remote(20.0) for _ in range(20)], timeout=20.0) == [True] * 20


def test_a_call_that_is_cancelled_as_soon_as_it_is_made_has_an_answer(
    cluster: Path, tmp_path: Path
) -> None:
    loop = Loop.remote()
    nbray.get(loop.quick.remote())
    for _ in range(5):
        before = [loop.quick.remote() for _ in range(3)]
        ref = loop.wait_for.remote(tmp_path / "never")
        nbray.cancel(ref)
        with pytest.raises(TaskCancelledError):
            nbray.get(ref, timeout=20.0)
        assert len(nbray.get(before, timeout=20.0)) == 3


def test_a_call_without_room_can_be_cancelled_and_the_others_have_their_turn(
    cluster: Path, tmp_path: Path
) -> None:
    loop = Loop.options(max_concurrency=1).remote()
    names = [tmp_path / name for name in ("first", "second", "third")]
    refs = [loop.wait_for.remote(path) for path in names]
    nbray.cancel(refs[1])
    with pytest.raises(TaskCancelledError):
        nbray.get(refs[1], timeout=20.0)
    names[2].touch()
    assert not nbray.wait(refs[2:], timeout=0.1)[0]
    names[0].touch()
    assert nbray.get([refs[0], refs[2]], timeout=20.0) == ["first", "third"]


def test_a_program_keeps_the_event_loops_that_it_brings(session_root: Path) -> None:
    def set_up() -> None:
        class OwnLoop(asyncio.SelectorEventLoop):
            """As uvloop's."""

        class Policy(asyncio.DefaultEventLoopPolicy):
            """Makes them."""

            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                return OwnLoop()

        asyncio.set_event_loop_policy(Policy())

    nbray.init(num_cpus=1, runtime_env={"worker_process_setup_hook": set_up})

    @nbray.remote(num_cpus=0)
    class OfItsOwn:
        async def loop(self) -> str:
            return type(asyncio.get_running_loop()).__name__

    actor = OfItsOwn.remote()
    assert nbray.get([actor.loop.remote() for _ in range(100)], timeout=30) == ["OwnLoop"] * 100


def test_news_for_a_loop_that_is_busy_wakes_whoever_drives_only_once() -> None:
    reactor = Reactor()
    selector = LoopSelector(reactor)
    read_end, write_end = os.pipe()
    try:
        selector.register(read_end, selectors.EVENT_READ)
        os.write(write_end, b"news")
        assert (selector.fileno(), 1) in reactor.poller.poll(0.0)
        assert selector.fileno() not in dict(reactor.poller.poll(0.0))
        assert [key.fd for key, _ in selector.select()] == [read_end]  # and is not lost
    finally:
        selector.close()
        os.close(read_end)
        os.close(write_end)
        reactor.abandon()
