"""What must not meet does not: users, clusters, notebooks; and what ends gives all back."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from jupyter_client.manager import KernelManager
from support.kernel import Notebook
from support.processes import have_ended

import nbray
from nbray.driver.joining import find_session
from nbray.testing import processes_of, wait_until

# --- another user of the machine --------------------

# Imports first: the other user may not be able to read this interpreter's folder.
STRANGER = """
import asyncio, email.utils, encodings.idna, json, os, socket, sys
import nbray.core_worker.core, nbray.driver.joining, nbray.launcher.local, nbray.public
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient
import nbray.wire.grpc_calls  # it is imported by need
from nbray.wire.handshake import ClientHandshake
from nbray.wire.identity import make_identity
make_identity(b"a guess")  # imports more

facts = json.loads(sys.stdin.read())
os.setgroups([])
os.setgid(65534)
os.setuid(65534)

def unix():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(facts["raylet_socket"])

def frames():
    with socket.create_connection(facts["raylet_tcp"], 10) as sock:
        client = ClientHandshake(b"a guess")
        sock.sendall(client.answer(sock.recv(client.hello_bytes, socket.MSG_WAITALL)))
        if not sock.recv(client.proof_bytes):
            raise ConnectionError("the connection was closed")

def grpc():
    async def call():
        await GrpcClient(facts["gcs_address"], b"a guess").call("ListNodes", g.Empty(), g.Nodes)
    asyncio.run(call())

def join():
    os.environ["NBRAY_TMPDIR"] = facts["own"]
    nbray.init(facts["gcs_address"])

attempts = {
    "list the sessions": lambda: os.listdir(facts["root"]),
    "list the session": lambda: os.listdir(facts["session"]),
    "read the token": lambda: open(facts["session"] + "/token").read(),
    "read the addresses": lambda: open(facts["session"] + "/session.json").read(),
    "read a log": lambda: open(facts["session"] + "/logs/raylet.log").read(),
    "reach the raylet's socket": unix,
    "list open files": lambda: os.listdir(f"/proc/{facts['raylet_pid']}/fd"),
    "open the arena": lambda: open(facts["arena"], "rb"),
    "read the environment": lambda: open(f"/proc/{facts['raylet_pid']}/environ").read(),
    "read the memory": lambda: open(f"/proc/{facts['raylet_pid']}/mem", "rb"),
    "use another's folder": lambda: nbray.init("auto"),
    "join by frames": frames,
    "call the GCS": grpc,
    "join as a driver": join,
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(json.dumps([name, "SUCCEEDED"]))
    except Exception as error:
        print(json.dumps([name, type(error).__name__, str(error)]))
"""


@pytest.fixture
def strangers_home() -> Iterator[Path]:
    """A folder of the other user, where sessions of its own would be."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        yield Path(folder)


def is_arena(descriptor: Path) -> bool:
    with suppress(FileNotFoundError):  # closed since it was listed
        return "nbray-arena" in os.readlink(descriptor)
    return False


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_can_neither_read_nor_join(cluster: Path, strangers_home: Path) -> None:
    session, info = find_session("auto")
    ref = nbray.put(np.ones(100_000))
    raylet = info["pids"][-1]
    arena = next(fd for fd in Path(f"/proc/{raylet}/fd").iterdir() if is_arena(fd))
    row = nbray.nodes()[0]
    facts = {
        "root": str(cluster), "session": str(session.path), "arena": str(arena),
        "own": str(strangers_home),
        "raylet_socket": info["raylet_socket"], "raylet_pid": raylet,
        "raylet_tcp": [row["NodeManagerAddress"], row["NodeManagerPort"]],
        "gcs_address": info["gcs_address"],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", STRANGER], input=json.dumps(facts), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = {line[0]: line[1:] for line in map(json.loads, done.stdout.splitlines())}
    assert len(outcomes) == 14
    reached = {name: outcome for name, outcome in outcomes.items() if outcome == ["SUCCEEDED"]}
    assert not reached
    assert outcomes["join by frames"] == ["ConnectionError", "the connection was closed"]
    assert "wrong cluster token" in outcomes["call the GCS"][1]
    assert outcomes["join as a driver"][0] == "ConnectionError"
    for name in ("join by frames", "call the GCS", "join as a driver"):
        del outcomes[name]
    for name, outcome in outcomes.items():
        assert outcome[0] == "PermissionError", (name, outcome)
    # Also where the folder above is open, nothing in it is.
    for path in [session.path, *session.path.rglob("*")]:
        with suppress(FileNotFoundError):  # files of tables and sockets come and go
            mode = path.stat().st_mode
            assert not stat.S_ISDIR(mode) or stat.S_IMODE(mode) == 0o700, path
    assert stat.S_IMODE((session.path / "token").stat().st_mode) == 0o600
    assert nbray.get(ref).sum() == 100_000


def test_the_token_stands_on_no_command_line(cluster: Path) -> None:
    session, _ = find_session("auto")
    nbray.get(nbray.remote(lambda: 1).remote(), timeout=30)
    found = processes_of(cluster)
    assert len(found) >= 4
    for process in found:
        line = " ".join(process.info["cmdline"]).encode()
        assert session.token not in line and session.token.hex().encode() not in line


# --- two clusters of one user --------------------

NEIGHBOUR = """
import sys
import nbray
nbray.init(num_cpus=1, object_store_memory=100 << 20, namespace="same", resources={sys.argv[1]: 1})

@nbray.remote
class Counter:
    def __init__(self): self.n = 0
    def add(self, n): self.n += n; return self.n

counter = Counter.options(name="counter", lifetime="detached").remote()
for line in sys.stdin:
    named = nbray.get_actor("counter")
    total = nbray.get(named.add.remote(int(line)), timeout=30)
    resources = sorted(name for name in nbray.cluster_resources() if name in ("one", "other"))
    print(total, len(nbray.nodes()), resources, flush=True)
"""


class Neighbour:
    """A driver with a cluster of its own, and an actor that has the other one's name too."""

    def __init__(self, resource: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR, resource], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def add(self, number: int) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def leave(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode


def test_two_clusters_of_one_user_do_not_meet(session_root: Path) -> None:
    one, other = Neighbour("one"), Neighbour("other")
    try:
        assert one.add(1) == "1 1 ['one']"
        assert other.add(10) == "10 1 ['other']"
        assert one.add(1) == "2 1 ['one']"
        assert len(list(session_root.iterdir())) == 2
        assert one.leave() == 0
        wait_until(lambda: len(list(session_root.iterdir())) == 1, "the end of one cluster")
        assert other.add(10) == "20 1 ['other']"
    finally:
        for neighbour in (one, other):
            if neighbour.process.poll() is None:
                assert neighbour.leave() == 0


# --- a driver ends, one way or another --------------------

DRIVER = """
import os, sys, time
import numpy as np
import nbray
nbray.init(sys.argv[1])

@nbray.remote
def endless(path):
    open(os.path.join(path, str(os.getpid())), "w").close()
    time.sleep(1000)

@nbray.remote(num_cpus=0, resources={"custom": 1})
class Holder:
    def pid(self): return os.getpid()

held = nbray.put(np.ones(5_000_000))
holder = Holder.remote()
open(os.path.join(sys.argv[2], str(nbray.get(holder.pid.remote()))), "w").close()
nbray.get([endless.remote(sys.argv[2]) for _ in range(20)])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_ends_gives_all_back(
    cluster: Path, tmp_path: Path, number: signal.Signals
) -> None:
    _, info = find_session("auto")
    before = nbray.available_resources()

    def store_used() -> float:
        return float(nbray.nodes()[0]["Stats"]["store_used"])

    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, info["gcs_address"], str(tmp_path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 3, "an actor and two tasks to run", 60)
        workers = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
        wait_until(lambda: store_used() >= 40_000_000, "the driver's object to be counted")
        wait_until(lambda: nbray.available_resources().get("CPU", 0) == 0, "all CPUs to be held")
        driver.send_signal(number)
        _, said = driver.communicate(timeout=60)
        assert driver.returncode != 0
        if number == signal.SIGINT:
            assert "KeyboardInterrupt" in said
        wait_until(lambda: have_ended(one.pid for one in workers), "the end of its workers")
        wait_until(lambda: nbray.available_resources() == before, "its leases back")
        wait_until(lambda: store_used() == 0, "its objects freed")
        assert len(list(tmp_path.iterdir())) == 3, "a queued task began after its driver's end"
        assert nbray.get(nbray.remote(lambda: 6 * 7).remote(), timeout=30) == 42
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()


# --- ten notebooks at one cluster --------------------

KERNELS = 10


@pytest.fixture
def notebooks(session_root: Path) -> Iterator[list[Notebook]]:
    """Ten kernels, started at once, at one cluster."""
    info = nbray.init(num_cpus=4, object_store_memory=200 << 20)
    with ExitStack() as stack:
        managers = [KernelManager() for _ in range(KERNELS)]

        def open_one(manager: KernelManager) -> Notebook:
            manager.start_kernel(extra_arguments=["--colors=NoColor"])
            stack.callback(manager.shutdown_kernel, now=True)
            client = manager.blocking_client()
            client.start_channels()
            stack.callback(client.stop_channels)
            client.wait_for_ready(timeout=90)
            notebook = Notebook(manager, client)
            notebook.run("%load_ext nbray", timeout=90)
            attached = notebook.run(f"%nbray attach {info['address']}", timeout=90)
            assert not attached.error, attached.error
            return notebook

        with ThreadPoolExecutor(KERNELS) as pool:
            yield list(pool.map(open_one, managers))
            for notebook in managers:
                assert notebook.is_alive()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_notebooks_share_a_cluster_and_nothing_else(notebooks: list[Notebook]) -> None:
    actor = (
        "import nbray\n@nbray.remote(num_cpus=0)\nclass Mine:\n"
        "    def __init__(self, n): self.n = n\n    def number(self): return self.n\n"
    )

    def use(pair: tuple[int, Notebook]) -> dict[str, Any]:
        number, notebook = pair
        notebook.run(f"number = {number}\n" + actor, timeout=90)
        notebook.run("mine = Mine.options(name='mine').remote(number)", timeout=90)
        cell = notebook.run(
            "%%remote\nprint('printed for', number)\nsquare = number * number", timeout=90
        )
        notebook.wait(lambda: "printed for" in cell.printed, "the remote output", 60)
        return {
            "printed": cell.printed.strip(),
            "square": notebook.run("int(square)", timeout=90).result,
            "named": notebook.run(
                "nbray.get(nbray.get_actor('mine').number.remote())", timeout=90
            ).result,
            "namespace": notebook.run("nbray.get_runtime_context().namespace").result,
        }

    with ThreadPoolExecutor(KERNELS) as pool:
        found = list(pool.map(use, enumerate(notebooks)))
    assert [f["printed"] for f in found] == [f"printed for {n}" for n in range(KERNELS)]
    assert [f["square"] for f in found] == [str(n * n) for n in range(KERNELS)]
    assert [f["named"] for f in found] == [str(n) for n in range(KERNELS)]
    assert len({f["namespace"] for f in found}) == KERNELS
    with pytest.raises(ValueError, match="Failed to look up actor"):
        nbray.get_actor("mine")
