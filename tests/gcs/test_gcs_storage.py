"""The storage of the GCS: what was acknowledged is there, whoever was killed."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ports import free_port

from nbray.gcs.receipts import Receipts
from nbray.gcs.storage import StorageError, Store, Table, open_store
from nbray.gcs.storage.backend import Batch
from nbray.gcs.storage.memory import MemoryBackend
from nbray.wire.records import Address


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Every storage that outlives its process."""
    found: str = "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url")
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="nbstore"))
    yield path
    shutil.rmtree(path)


def in_store(url: str, folder: Path, use: Callable[[Store], Any]) -> Any:
    """Open the store, ``use`` it, wait until all is durable, close it."""

    async def run() -> Any:
        store = open_store(url, folder)
        result = use(store)
        await store.close()
        return result

    return asyncio.run(run())


def test_rows_come_back_as_they_were_written(url: str, folder: Path) -> None:
    row = Address(b"w", b"\x00\xff", "/path", "host", 7)

    def write(store: Store) -> None:
        table = Table(store, "places", Address)
        table.put(b"\x00key", row)
        table.put(b"gone", row)
        table.delete(b"gone")
        Table(store, "others", Address).put(b"other", row)

    in_store(url, folder, write)
    assert in_store(url, folder, lambda s: Table(s, "places", Address).all()) == {b"\x00key": row}


def test_a_row_is_read_as_it_was_written_last_whether_it_is_durable_or_not(
    url: str, folder: Path
) -> None:
    async def live(first: bool) -> None:
        store = open_store(url, folder)
        if first:
            for number in range(20):
                for value in (b"%d" % number, b"%d again" % number):
                    store.put("large", b"%d" % number, value * 100_000)
                    assert await store.read("large", b"%d" % number) == value * 100_000
            store.delete("large", b"7")
            assert await store.read("large", b"7") is None
            await store.durable()
        assert await store.read("large", b"3") == b"3 again" * 100_000
        assert await store.read("large", b"7") is await store.read("none", b"3") is None
        assert set(store.keys("large")) == {b"%d" % number for number in range(20)} - {b"7"}
        await store.close()

    asyncio.run(live(first=True))
    asyncio.run(live(first=False))


WRITES = st.lists(
    st.tuples(st.sampled_from("ab"), st.binary(max_size=2), st.none() | st.binary(max_size=9)),
    max_size=12,
)


@settings(max_examples=15)
@given(lives=st.lists(WRITES, max_size=3))
def test_every_life_of_a_store_begins_where_the_last_one_ended(
    lives: list[list[tuple[str, bytes, bytes | None]]],
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nbstore"))
    model: dict[str, dict[bytes, bytes]] = {"a": {}, "b": {}}
    try:
        for writes in [*lives, []]:

            def live(store: Store, writes: Any = writes) -> dict[str, dict[bytes, bytes]]:
                found = {table: dict(store.rows(table)) for table in "ab"}
                for table, key, value in writes:
                    if value is None:
                        store.delete(table, key)
                    else:
                        store.put(table, key, value)
                return found

            assert in_store("sqlite", folder, live) == model
            for table, key, value in writes:
                if value is None:
                    model[table].pop(key, None)
                else:
                    model[table][key] = value
    finally:
        shutil.rmtree(folder)


WRITER = """
import asyncio, sys
from pathlib import Path
from nbray.gcs.storage import open_store

async def write(store, writer):
    for number in range(1_000_000):
        store.put("numbers", b"%d" % writer, b"%d" % number)
        store.put("copies", b"%d" % writer, b"%d" % number)
        await store.durable()
        print(writer, number, flush=True)

async def main():
    store = open_store(sys.argv[1], Path(sys.argv[2]))
    await asyncio.gather(*(write(store, writer) for writer in range(5)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 40, 700])
def test_a_killed_writer_loses_nothing_that_was_acknowledged(
    url: str, folder: Path, lines: int
) -> None:
    folder = folder / f"cluster{lines}"
    folder.mkdir()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged: dict[bytes, int] = {}
    for count, line in enumerate(writer.stdout):
        if count == lines:
            writer.kill()
        if line.endswith("\n"):
            key, number = line.split()
            acknowledged[key.encode()] = int(number)
    writer.wait()

    def read(store: Store) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        return dict(store.rows("numbers")), dict(store.rows("copies"))

    numbers, copies = in_store(url, folder, read)
    assert numbers == copies, "a transaction was torn"
    for key, number in acknowledged.items():
        assert int(numbers[key]) >= number


class Failing(MemoryBackend):
    """Fails as often as it is told, then works."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        super().__init__()
        self.failures = failures
        self.error = error or StorageError("the disk is full")
        self.batches: list[Batch] = []

    def write(self, batch: Batch) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error
        self.batches.append(batch)
        super().write(batch)


@pytest.mark.parametrize("error", [StorageError("the disk is full"), MemoryError()])
def test_writes_wait_for_a_disk_that_is_full_for_a_while_and_go_out_together(
    error: Exception,
) -> None:
    async def run() -> Failing:
        backend = Failing(1, error)
        store = Store(backend)
        store.put("t", b"first", b"1")
        for number in range(100):
            store.put("t", b"%d" % number, b"x")
        await store.durable()
        await store.close()
        return backend

    backend = asyncio.run(run())
    assert sum(len(batch) for batch in backend.batches) == 101
    assert len(backend.batches) <= 2


@pytest.mark.parametrize(
    ("error", "said"),
    [(StorageError("the disk is full"), "the disk is full"), (MemoryError(), "MemoryError()")],
)
def test_a_store_that_stays_broken_says_so_to_everybody_who_waits(
    error: Exception, said: str
) -> None:
    async def run() -> list[str]:
        reasons: list[str] = []
        store = Store(Failing(1_000_000, error), retry_s=0.0)
        store.on_broken = reasons.append
        store.put("t", b"k", b"v")
        for _ in range(2):
            with pytest.raises(StorageError, match=re.escape(said)):
                await store.durable()
        return reasons

    assert asyncio.run(run()) == [said]


def test_what_cannot_be_opened_is_a_clear_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="--storage takes sqlite, memory or redis"):
        in_store("mysql://here", folder, lambda store: None)
    with pytest.raises(StorageError, match=r"in Redis at 127\.0\.0\.1"):
        in_store(f"redis://127.0.0.1:{free_port()}", folder, lambda store: None)
    (folder / "gcs.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match=r"gcs\.sqlite: file is not a database"):
        in_store("sqlite", folder, lambda store: None)


def test_what_was_done_and_its_receipt_are_durable_together_and_the_newest_stay(
    folder: Path,
) -> None:
    class Watched(MemoryBackend):
        def write(self, batch: Batch) -> None:
            batches.append({table for table, _ in batch})
            super().write(batch)

    batches: list[set[str]] = []

    async def one_by_one() -> None:
        store = Store(Watched())
        receipts = Receipts(store)
        for number in range(100):
            with store.together():
                store.put("done", b"%d" % number, b"")
                time.sleep(0.0005)  # the thread that writes would have its chance
                receipts.keep(b"%d" % number, 1)
        await store.close()

    asyncio.run(one_by_one())
    assert all(tables == {"done", "receipts"} for tables in batches)

    def keep(store: Store) -> None:
        receipts = Receipts(store)
        for number in range(10_005):
            receipts.keep(b"%d" % number, number)
        assert receipts.find(b"4") is None and receipts.find(b"5") == 5

    def look(store: Store) -> None:
        receipts = Receipts(store)
        assert receipts.find(b"4") is None and receipts.find(b"10004") == 10_004
        receipts.keep(b"new", 1)
        assert receipts.find(b"5") is None, "the oldest goes first"

    in_store("sqlite", folder, keep)
    in_store("sqlite", folder, look)
