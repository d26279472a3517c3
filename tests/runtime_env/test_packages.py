"""Packages of runtime environments: they stay while they are needed, and hurt no raylet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from support.commands import command

import nbray
from nbray.common.config import Config
from nbray.driver.joining import find_session
from nbray.exceptions import RuntimeEnvSetupError
from nbray.experimental import internal_kv as kv
from nbray.gcs.kv.packages import PackageTable
from nbray.gcs.kv.space import KeyValueSpace
from nbray.gcs.receipts import Receipts
from nbray.gcs.storage import open_store
from nbray.runtime_env import RuntimeEnv, packaging, unzip
from nbray.runtime_env.packaging import PackageError
from nbray.runtime_env.setup import EnvError, EnvManager
from nbray.testing import processes_of, wait_until
from nbray.wire import gcs_messages as g

MB = 1 << 20

# --- what nobody needs --------------------


def test_a_package_stays_while_a_job_lives_and_a_little_longer(tmp_path: Path) -> None:
    living = {b"one", b"two"}
    config = Config(package_kept_s=60.0, unused_packages_bytes=100)

    async def scenario() -> None:
        store = open_store("sqlite", tmp_path)
        space = KeyValueSpace(store, Receipts(store))
        table = PackageTable(space, store, lambda: living.__contains__, set, config)
        _, use = table.services()["UsePackage"]

        async def send(uri: bytes, job: bytes, size: int) -> int:
            there: g.KvCount = await use(g.UsePackage(uri, job, size))
            for key in (uri + b"#0", uri + b"#1", uri):
                space.put(g.PACKAGES, key, b"x")
            return there.count

        def kept() -> set[bytes]:
            return {u for u in (b"a", b"b", b"c") if space.has(g.PACKAGES, u)}

        assert await send(b"a", b"one", 90) == 0
        assert await send(b"a", b"two", 90) == 1
        assert await send(b"b", b"two", 90) == 0
        living.discard(b"one")
        table.look(1000.0)
        living.discard(b"two")
        table.look(2000.0)
        assert kept() == {b"a", b"b"} or len(kept()) == 1, "one of two that are too much together"
        table.look(2059.0)
        survivor = kept()
        assert len(survivor) == 1
        living.add(b"three")
        assert await use(g.UsePackage(next(iter(survivor)), b"three", 90)) == g.KvCount(1)
        table.look(9000.0)
        assert kept() == survivor, "it is needed again"
        await store.durable()
        # After a crash of the GCS it is known who needs what.
        again = PackageTable(space, store, lambda: {b"three"}.__contains__, set, config)
        again.look(1.0)
        again.look(100.0)
        assert kept() == survivor
        living.clear()
        table.look(10_000.0)
        table.look(10_061.0)
        assert not kept()
        assert not space.has(g.PACKAGES, b"a#0") and not space.has(g.PACKAGES, b"b#1")
        await store.close()

    asyncio.run(scenario())


def size() -> int:
    """Of what the working_dir has."""
    return Path("data.bin").stat().st_size


class Reader:
    """In a process that has its working_dir from the start."""

    def read(self) -> int:
        return size()

    def again(self) -> int:
        return int(nbray.get(nbray.remote(size).remote(), timeout=60))


@pytest.mark.slow
def test_packages_of_jobs_that_ended_leave_memory_and_disk_and_those_of_detached_actors_stay(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NBRAY_PACKAGE_KEPT_S", "0.5")
    started = command(
        "start", "--head", "--port=0", "--num-cpus=1", "--object-store-memory=50000000"
    )
    assert started.returncode == 0, started.stderr
    try:
        session, _ = find_session("auto")

        def on_disk(folder: Path) -> int:
            found = 0
            for place, _, names in os.walk(folder):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):  # it goes at this moment
                        found += os.stat(os.path.join(place, name)).st_size
            return found

        tables = session.path / "gcs.sqlite"
        unpacked = session.path / "runtime_resources"
        for lifetime in (None, "detached"):
            folder = tmp_path / f"job {lifetime}"
            folder.mkdir()
            (folder / "data.bin").write_bytes(os.urandom(12 * MB))
            nbray.init("auto", namespace="n", runtime_env={"working_dir": str(folder)})
            assert nbray.get(nbray.remote(size).remote(), timeout=60) == 12 * MB
            reader = nbray.remote(num_cpus=0)(Reader).options(
                name=f"reader {lifetime}", lifetime=lifetime
            )
            assert nbray.get(reader.remote().read.remote(), timeout=60) == 12 * MB
            nbray.shutdown()
        nbray.init("auto", namespace="n")

        def kept() -> int:
            keys = kv._internal_kv_list(b"gcs://", namespace=g.PACKAGES)
            return len({key.partition(b"#")[0] for key in keys})

        wait_until(lambda: kept() == 1, "the GCS to forget the packages of the jobs that ended")
        wait_until(lambda: on_disk(unpacked) < 15 * MB, "the nodes' folders to go")
        wait_until(lambda: tables.stat().st_size < 24 * MB, "the rows to go")
        reader = nbray.get_actor("reader detached")
        assert nbray.get(reader.again.remote(), timeout=60) == 12 * MB
        nbray.kill(reader)
        wait_until(lambda: kept() == 0, "the GCS to forget the last package")
        wait_until(lambda: on_disk(unpacked) < MB, "the last folder to go")
        wait_until(lambda: tables.stat().st_size < 10 * MB, "the last rows to go")
        nbray.shutdown()
    finally:
        command("stop")


# --- what is too much --------------------


def bomb(path: Path, size: int, says: int | None = None) -> None:
    """A small .zip file with ``size`` zeros, whose table may say another size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("zeros", "w", force_zip64=True) as file:
            for _ in range(size // MB):
                file.write(bytes(MB))
        if says is not None:
            archive.getinfo("zeros").file_size = says


def test_a_raylet_unpacks_nothing_in_its_own_memory(session_root: Path, tmp_path: Path) -> None:
    package = tmp_path / "bomb.zip"
    bomb(package, 200 * MB)
    nbray.init(num_cpus=1, object_store_memory=32 * MB)
    raylet = next(p for p in processes_of(session_root) if "nbray.raylet" in p.info["cmdline"])
    peak = Path(f"/proc/{raylet.pid}/status")
    size = nbray.remote(lambda: os.path.getsize("zeros")).options(
        runtime_env={"working_dir": str(package)}
    )
    assert nbray.get(size.remote(), timeout=90) == 200 * MB
    (line,) = (line for line in peak.read_text().splitlines() if line.startswith("VmHWM"))
    assert int(line.split()[1]) << 10 < 150 * MB


def test_what_is_too_large_is_refused_by_who_sends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "MOST_UNPACKED_BYTES", 2 * MB)
    monkeypatch.setattr(packaging, "MOST_FILES", 10)
    bomb(tmp_path / "bomb.zip", 3 * MB)
    with pytest.raises(PackageError, match="have 3,145,728 bytes; at most"):
        packaging.pack(tmp_path / "bomb.zip", [], keep_name=False)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(PackageError, match=r"broken\.zip is no \.zip file"):
        packaging.pack(tmp_path / "broken.zip", [], keep_name=False)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(11):
        (folder / str(number)).touch()
    with pytest.raises(PackageError, match="has more than 10 files"):
        packaging.pack(folder, [], keep_name=False)
    (folder / "caf\udce9").touch()
    with pytest.raises(PackageError, match="is not UTF-8"):
        packaging.pack(folder, [str(n) for n in range(11)], keep_name=False)


def test_what_is_too_large_is_not_unpacked_whatever_its_table_says(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    bomb(tmp_path / "bomb.zip", 3 * MB)
    with pytest.raises(unzip.UnpackError, match="more than 2,097,152 bytes"):
        unzip.unpack(str(tmp_path / "bomb.zip"), str(folder), 2 * MB, 10)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(11):
            archive.writestr(str(number), "")
    with pytest.raises(unzip.UnpackError, match="has 11 files; at most 10"):
        unzip.unpack(str(tmp_path / "many.zip"), str(folder), 2 * MB, 10)
    data = bytearray((tmp_path / "bomb.zip").read_bytes())
    middle = data.index(b"PK\x01\x02")
    data[middle + 16 : middle + 20] = struct.pack("<I", 7)  # the checksum
    (tmp_path / "wrong.zip").write_bytes(data)
    with pytest.raises(unzip.UnpackError, match="damaged"):
        unzip.unpack(str(tmp_path / "wrong.zip"), str(folder), 9 * MB, 10)
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(unzip.UnpackError, match="damaged"):
        unzip.unpack(str(tmp_path / "cut.zip"), str(folder), 9 * MB, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bomb.zip", "cut.zip", "many.zip", "wrong.zip",
    ]  # fmt: skip


def test_a_package_of_too_many_files_is_refused(tmp_path: Path) -> None:
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0
    ) + b"x"  # fmt: skip
    count = 210_000
    with (tmp_path / "table.zip").open("wb") as file:
        for _ in range(count // 10_000):
            file.write(entry * 10_000)
        size = count * len(entry)
        place = file.tell()
        file.write(
            struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, 0)
        )
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, size, 0, 0))
    with pytest.raises(PackageError, match="has 210,000 files; at most 200,000"):
        asyncio.run(packaging.unpack(tmp_path / "table.zip", tmp_path / "folder"))
    assert not (tmp_path / "folder").exists()


def test_what_a_working_dir_sends(tmp_path: Path) -> None:
    for name in (".ipynb_checkpoints/a-checkpoint.ipynb", ".git/config", "pkg/__pycache__/a.pyc",
                 "a.py", ".env", "pkg/.ipynb_checkpoints/b.ipynb"):  # fmt: skip
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    _, data = packaging.pack(tmp_path / "project", [], keep_name=False)
    (tmp_path / "p.zip").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        assert archive.namelist() == [".env", "a.py"], "what is secret is the user's to exclude"


def test_a_package_that_cannot_be_fails_where_it_is_said(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    task = nbray.remote(lambda: 1).options(
        runtime_env={"working_dir": str(tmp_path / "broken.zip")}
    )
    with pytest.raises(RuntimeEnvSetupError, match=r"is no \.zip file"):
        task.remote()
    assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=30) == 1


def test_a_package_is_read_from_the_store_and_not_held_in_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = open_store("sqlite", tmp_path)
        space = KeyValueSpace(store, Receipts(store))
        services = space.services()

        async def ask(method: str, *facts: object) -> object:
            kind, handler = services[method]
            return await handler(kind(*facts))

        part = bytes(MB)
        tracemalloc.start()
        for number in range(40):
            assert await ask("KvPut", g.PACKAGES, b"a#%d" % number, bytes([number]) * MB)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 10 * MB
        assert await ask("KvGet", g.PACKAGES, b"a#0") == g.KvValue(part)
        assert await ask("KvExists", g.PACKAGES, b"a#39") == g.KvCount(1)
        again = KeyValueSpace(store, Receipts(store))
        assert again.has(g.PACKAGES, b"a#7") and not again.has(b"other", b"a#7")
        assert await ask("KvDel", g.PACKAGES, b"a#", True) == g.KvCount(40)
        assert await ask("KvGet", g.PACKAGES, b"a#0") == g.KvValue(None)
        await store.close()

    asyncio.run(scenario())


def test_a_package_whose_name_begins_like_that_of_another_stays(tmp_path: Path) -> None:
    config = Config(package_kept_s=60.0)

    async def scenario() -> None:
        store = open_store("sqlite", tmp_path)
        space = KeyValueSpace(store, Receipts(store))
        table = PackageTable(space, store, lambda: {b"one"}.__contains__, set, config)
        _, use = table.services()["UsePackage"]
        for uri, job in ((b"gcs://env.tar", b"ended"), (b"gcs://env.tar.gz", b"one")):
            await use(g.UsePackage(uri, job, 1))
            for key in (uri, uri + b"#0"):
                space.put(g.PACKAGES, key, b"x")
        table.look(1000.0)
        table.look(1061.0)
        keys = ("env.tar", "env.tar#0", "env.tar.gz", "env.tar.gz#0")
        there = [space.has(g.PACKAGES, b"gcs://" + key.encode()) for key in keys]
        assert there == [False, False, True, True]
        await store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "uri", ["gcs://", "gcs://..", "gcs://../..", "gcs://a/b.zip", "gcs://x.zip/", "gcs://x"]
)
def test_what_is_no_name_of_a_package_is_refused(uri: str, tmp_path: Path) -> None:
    for field in ({"working_dir": uri}, {"py_modules": [uri]}):
        with pytest.raises(ValueError, match="is no package"):
            RuntimeEnv(**field)

    async def fetch(_key: bytes) -> bytes:
        return b"0"

    async def scenario() -> None:
        (tmp_path / "packages" / "x").mkdir(parents=True)
        with pytest.raises(EnvError, match="is no package"):
            await EnvManager(tmp_path, fetch).prepare(json.dumps({"working_dir": uri}))

    asyncio.run(scenario())


def test_a_pattern_that_is_none_is_said_with_its_place(cluster: Path, tmp_path: Path) -> None:
    folder = str(tmp_path)
    task = nbray.remote(lambda: 1).options
    with pytest.raises(RuntimeEnvSetupError, match=r"'\\\\' in excludes is no pattern"):
        task(runtime_env={"working_dir": folder, "excludes": ["a", "\\"]}).remote()
    (tmp_path / ".gitignore").write_text("a\n[z-a]\n")
    with pytest.raises(RuntimeEnvSetupError, match=r"'\[z-a\]' in .*/\.gitignore is no pattern"):
        task(runtime_env={"working_dir": folder}).remote()


def test_a_large_package_is_not_held_by_who_sends_it(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(40 * MB))
    task = nbray.remote(lambda: os.path.getsize("large"))
    tracemalloc.start()
    try:
        ref = task.options(runtime_env={"working_dir": str(tmp_path)}).remote()
        assert tracemalloc.get_traced_memory()[1] < 25 * MB
    finally:
        tracemalloc.stop()
    assert nbray.get(ref) == 40 * MB
