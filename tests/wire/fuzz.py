"""Fuzzing: hostile and broken bytes for every listener of a cluster, from a seed.

``python tests/wire/fuzz.py --seed 7 --seconds 60`` runs one. The traffic of one cluster is
recorded; then another is attacked with it, mutated, and with messages made up from their types:
before the handshake and after it, in frames and by gRPC and HTTP, whole, cut off, and too long.
Frames that would run code or end a process by their meaning are left out: members of a cluster may
do that. Afterwards every process has to be the one that it was, with its memory and its
descriptors, its log without a traceback, and the cluster has to work.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import psutil

import nbray
from nbray.core_worker.current import find_core
from nbray.driver.joining import find_session
from nbray.wire import frames
from nbray.wire import gcs_messages as g
from nbray.wire import messages as m
from nbray.wire import raylet_messages as r
from nbray.wire import state_messages as s
from nbray.wire.frames import MALFORMED
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.handshake import ClientHandshake, HandshakeError
from nbray.wire.link import Opening

GROWTH_ALLOWED = 48 << 20
# What it means is that code runs.
COMMANDS = (m.PushTask,)
KINDS = [kind for kind in get_args(m.Message) if kind not in COMMANDS]
GCS_METHODS: dict[str, Any] = {
    "ListNodes": g.Empty, "FindActor": g.NamedActor, "WaitActor": g.WaitActor,
    "KillActor": g.KillActorRequest, "WorkerDied": g.WorkerDied, "FinishJob": g.JobId,
    "RegisterJob": g.RegisterJob, "KvPut": g.KvPut, "KvGet": g.KvKey, "KvDel": g.KvKey,
    "KvGetMany": g.KvMany,
    "KvKeys": g.KvKey, "KvExists": g.KvKey, "ListActors": g.Empty, "ListWorkers": g.Empty,
    "ListJobs": g.Empty, "Demand": g.Empty, "ListTasks": s.TasksRequest,
    "ListObjects": s.ObjectsRequest, "Metrics": g.Empty, "TaskTotals": g.Empty,
    "RecentFailures": g.Empty, "ReportFailure": s.Failure, "NoSuchMethod": g.Empty,
}  # fmt: skip
RAYLET_METHODS: dict[str, Any] = {
    "EndActor": g.EndActor, "ActorsHere": g.Empty, "WarnJob": g.WarnJob,
    "TakeNews": r.TakeNews, "TellOwner": r.TellOwner, "ListWorkers": g.Empty,
    "ListTasks": s.TasksRequest, "ListObjects": s.ObjectsRequest, "Metrics": g.Empty,
    "NoSuchMethod": g.Empty,
}  # fmt: skip
NUMBERS = [0, 1, -1, 2, 255, 4096, 1 << 16, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 32), 1 << 40,
           (1 << 63) - 1, -(1 << 63), (1 << 64) - 1]  # fmt: skip


# --- inputs --------------------


class Inputs:
    """Everything that is sent, from one seed."""

    def __init__(self, seed: int, recorded: list[bytes]) -> None:
        self.rng = random.Random(seed)
        self.recorded = recorded

    def number(self) -> int:
        return self.rng.choice(NUMBERS) if self.rng.random() < 0.7 else self.rng.getrandbits(16)

    def raw(self) -> bytes:
        return self.rng.randbytes(self.rng.choice([0, 1, 4, 16, 24, 28, 28, 28, 300]))

    def value(self, kind: Any) -> Any:
        """A value of a type, with extreme numbers and ids that nobody has."""
        info = msgspec.inspect.type_info(kind)
        return self._value(info)

    def _value(self, info: Any) -> Any:
        i, rng = msgspec.inspect, self.rng
        match info:
            case i.IntType():
                return self.number()
            case i.BytesType():
                return self.raw()
            case i.StrType():
                return rng.choice(["", "x", "CPU", "/tmp/../x", "127.0.0.1", "\0", "é" * 50])
            case i.FloatType():
                return rng.choice([0.0, -1.0, 1e300, float("inf"), float("nan")])
            case i.BoolType():
                return rng.random() < 0.5
            case i.LiteralType():
                return rng.choice([*info.values, "x"])
            case i.NoneType():
                return None
            case i.ListType() | i.VarTupleType():
                return [self._value(info.item_type) for _ in range(rng.choice([0, 1, 1, 3]))]
            case i.TupleType():
                return [self._value(item) for item in info.item_types]
            case i.DictType():
                return {
                    self._value(info.key_type): self._value(info.value_type)
                    for _ in range(rng.choice([0, 1, 2]))
                }
            case i.UnionType():
                return self._value(rng.choice(info.types))
            case i.StructType():
                fields = [self._value(field.type) for field in info.fields]
                return fields if info.tag is None else [info.tag, *fields]
            case _:
                return None

    def wrong(self, tree: Any) -> Any:
        """The same with one part of another type, left out, or doubled."""
        if isinstance(tree, list) and tree and self.rng.random() < 0.8:
            copy = list(tree)
            index = self.rng.randrange(len(copy))
            match self.rng.randrange(4):
                case 0:
                    del copy[index]
                case 1:
                    copy.insert(index, copy[index])
                case _:
                    copy[index] = self.wrong(copy[index])
            return copy
        return self.rng.choice([None, -1, 1.5, "x", b"y", [], {}, [[[]]], {"a": 1}, 1 << 63])

    def mutated(self, data: bytes) -> bytes:
        """Some bytes changed, left out or repeated."""
        changed = bytearray(data)
        for _ in range(self.rng.randrange(1, 6)):
            if not changed:
                break
            at = self.rng.randrange(len(changed))
            match self.rng.randrange(4):
                case 0:
                    changed[at] ^= 1 << self.rng.randrange(8)
                case 1:
                    changed[at] = self.rng.choice([0, 0x7F, 0x80, 0xC1, 0xDD, 0xDF, 0xFF])
                case 2:
                    del changed[at : at + self.rng.randrange(1, 9)]
                case _:
                    changed[at:at] = changed[at : at + self.rng.randrange(1, 9)]
        return bytes(changed)

    def body(self) -> bytes:
        """The inside of a frame: never a command."""
        while True:
            body = self._body()
            try:
                messages = msgspec.msgpack.decode(body, type=list[m.Message])
            except MALFORMED:
                return body
            if not any(isinstance(message, COMMANDS) for message in messages):
                return body

    def _body(self) -> bytes:
        match self.rng.randrange(4):
            case 0:
                return self.mutated(self.rng.choice(self.recorded))
            case 1:
                return self.rng.randbytes(self.rng.randrange(200))
            case 2:
                return self.pack([self.value(self.rng.choice(KINDS)) for _ in range(3)])
            case _:
                return self.pack([self.wrong(self.value(self.rng.choice(KINDS)))])

    def pack(self, tree: Any) -> bytes:
        return msgspec.msgpack.encode(tree)

    def frame(self) -> bytes:
        """A frame whose length is right, mostly."""
        body = self.body()
        length = len(body)
        if self.rng.random() < 0.1:
            length = self.rng.choice([0, 1, length + 1, 1 << 20, (1 << 32) - 1])
        return struct.pack("<II", length, self.rng.choice([0, 0, 1, (1 << 32) - 1])) + body

    def opening(self) -> bytes:
        """Which link a member says it is about: mostly a new one."""
        right = Opening(self.rng.randbytes(16))
        match self.rng.randrange(6):
            case 0:
                return Opening(right.link_id, received=self.rng.choice([1, 1 << 40])).pack()
            case 1:
                return Opening(right.link_id, known=True).pack()
            case 2:
                return self.mutated(right.pack())
            case _:
                return right.pack()

    def greeting(self, token: bytes, hello: bytes) -> bytes:
        """What a stranger sends first."""
        right = ClientHandshake(token).answer(hello)
        match self.rng.randrange(4):
            case 0:
                return self.mutated(right)
            case 1:
                return right[: self.rng.randrange(len(right))]
            case 2:
                return self.rng.randbytes(self.rng.randrange(1, 5000))
            case _:
                return ClientHandshake(self.rng.randbytes(32)).answer(hello) + self.frame()

    def request(self, kind: Any) -> bytes:
        """The body of a gRPC call."""
        whole = self.pack(self.value(kind))
        match self.rng.randrange(3):
            case 0:
                return whole
            case 1:
                return self.mutated(whole)
            case _:
                return self.pack(self.wrong(self.value(kind)))

    def http(self, authorization: bytes) -> bytes:
        """A request of the dashboard, or something like it."""
        path = self.rng.choice(
            [b"/", b"/api/v0/tasks", b"/api/v0/nodes", b"/metrics", b"/ws", b"/login?key=x",
             b"/%00", b"/../../etc/passwd", b"/static/js/bokeh.min.js", b"/" + b"a" * 9000]
        )  # fmt: skip
        head = self.rng.choice([b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"\x00\xff "]) + path
        lines = [head + b" HTTP/1.1", b"Host: localhost"]
        if self.rng.random() < 0.5:
            lines.append(authorization)
        extra = [b"Content-Length: 99999999999", b"Content-Length: -1", b"Upgrade: websocket",
                 b"Transfer-Encoding: chunked", b"Cookie: " + self.rng.randbytes(50),
                 b"Connection: Upgrade", b"X: " + b"y" * 70000]  # fmt: skip
        lines += self.rng.sample(extra, self.rng.randrange(4))
        whole = b"\r\n".join(lines) + b"\r\n\r\n"
        return whole if self.rng.random() < 0.5 else self.mutated(whole)


# --- where it goes --------------------


@nbray.remote
class Listening:
    """An actor that tells where its process listens."""

    def where(self) -> tuple[str, tuple[str, int], int]:
        core = find_core()
        assert core is not None
        address = core.peers.address
        return address.unix_path, (address.host, address.port), os.getpid()


@nbray.remote
def add(a: int, b: np.ndarray) -> int:
    return a + int(b.sum())


@contextlib.contextmanager
def recording() -> Iterator[list[bytes]]:
    """The bodies of the frames that this process sends and receives meanwhile."""
    bodies: list[bytes] = []
    put, feed = frames.FrameWriter.put, frames.FrameDecoder.feed

    def noted(writer: Any, message: Any) -> None:
        put(writer, message)
        bodies.append(msgspec.msgpack.encode([message]))

    def fed(decoder: Any, data: Any) -> Any:
        messages = feed(decoder, data)
        if messages:
            bodies.append(msgspec.msgpack.encode(messages))
        return messages

    frames.FrameWriter.put, frames.FrameDecoder.feed = noted, fed  # type: ignore[method-assign]
    try:
        yield bodies
    finally:
        frames.FrameWriter.put, frames.FrameDecoder.feed = put, feed  # type: ignore[method-assign]


def record() -> list[bytes]:
    """Real traffic of a cluster that has ended: its ids are nobody's."""
    with recording() as bodies:
        nbray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False)
        ref = nbray.put(np.ones(50_000))
        actor = Listening.remote()
        nbray.get([add.remote(i, ref) for i in range(20)], timeout=60)
        nbray.get(actor.where.remote(), timeout=60)
        stream = nbray.remote(lambda: (yield from range(3))).options(num_returns="streaming")
        assert [nbray.get(item) for item in stream.remote()] == [0, 1, 2]
        nbray.shutdown()
    return [body for body in bodies if len(body) < 20_000]


class Target:
    """A cluster under attack."""

    def __init__(self, dashboard: bool) -> None:
        facts = nbray.init(
            num_cpus=2, object_store_memory=200 << 20, include_dashboard=dashboard, dashboard_port=0
        )
        self.session, info = find_session("auto")
        self.actor = Listening.remote()
        unix, tcp, actor_pid = nbray.get(self.actor.where.remote(), timeout=60)
        core = find_core()
        assert core is not None
        row = nbray.nodes()[0]
        reply = core.peers.gcs_call("ListNodes", msgspec.msgpack.encode(g.Empty()))
        node = msgspec.msgpack.decode(reply, type=g.Nodes).nodes[0]
        own = core.peers.address
        self.sockets: dict[str, Any] = {
            "raylet, Unix": info["raylet_socket"],
            "raylet, TCP": (row["NodeManagerAddress"], row["NodeManagerPort"]),
            "worker, Unix": unix,
            "worker, TCP": tcp,
            "driver, Unix": own.unix_path,
            "driver, TCP": (own.host, own.port),
        }
        self.gcs = info["gcs_address"]
        self.raylet_grpc = f"{node.host}:{node.grpc_port}"
        self.http: tuple[str, int] | None = None
        if dashboard:
            host, _, port = str(facts.dashboard_url).rpartition("/")[2].rpartition(":")
            self.http = (host, int(port))
        self.pids = {"GCS": info["pids"][0], "raylet": info["pids"][1], "worker": actor_pid,
                     "driver": os.getpid()}  # fmt: skip

    def connect(self, address: Any) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.settimeout(10)
        sock.connect(address)
        return sock

    def measure(self) -> dict[str, tuple[int, int]]:
        """Resident bytes and descriptors of each process."""
        found = {}
        for name, pid in self.pids.items():
            process = psutil.Process(pid)
            found[name] = (process.memory_info().rss, process.num_fds())
        return found

    def check_work(self) -> None:
        """The cluster does what it is there for."""
        refs = [add.remote(i, nbray.put(np.ones(20_000))) for i in range(5)]
        assert nbray.get(refs, timeout=60) == [20_000 + i for i in range(5)]
        assert nbray.get(self.actor.where.remote(), timeout=60)[2] == self.pids["worker"]

    def tracebacks(self) -> list[str]:
        """What the processes' logs say of errors that nobody expected: each kind once."""
        found: dict[str, str] = {}
        for path in sorted((self.session.path / "logs").iterdir()):
            lines = path.read_text(errors="replace").splitlines()
            for start, line in enumerate(lines):
                if line.startswith("Traceback"):
                    end = start + 1
                    while end < len(lines) and lines[end].startswith(" "):
                        end += 1
                    text = "\n".join([path.name, *lines[max(0, start - 2) : end + 1]])
                    found.setdefault("".join(lines[end - 2 : end]), text)
        return list(found.values())

    def last_words(self) -> list[str]:
        """The ends of the logs of GCS and raylet."""
        logs = self.session.path / "logs"
        return [
            f"{name}:\n" + "\n".join((logs / name).read_text().splitlines()[-40:])
            for name in ("gcs.log", "raylet.log")
        ]


class Attack:
    """One run against one cluster."""

    def __init__(self, inputs: Inputs, target: Target) -> None:
        self.inputs = inputs
        self.target = target
        self.sent: Counter[str] = Counter()

    def stranger(self, name: str) -> None:
        with self.target.connect(self.target.sockets[name]) as sock:
            hello = sock.recv(ClientHandshake.hello_bytes, socket.MSG_WAITALL)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(self.inputs.greeting(self.target.session.token, hello))
        self.sent[f"{name}, before the handshake"] += 1

    def member(self, name: str, count: int = 20) -> None:
        """A connection that has proved the token sends frames until it is cut off."""
        # Whatever the answers are.
        sent = [self.inputs.opening(), *(self.inputs.frame() for _ in range(count))]
        if self.inputs.rng.random() < 0.2:
            sent[-1] = sent[-1][: self.inputs.rng.randrange(len(sent[-1]))]
        with self.target.connect(self.target.sockets[name]) as sock:
            client = ClientHandshake(self.target.session.token, sock.getpeername)
            try:
                sock.sendall(client.answer(sock.recv(client.hello_bytes, socket.MSG_WAITALL)))
                client.check(sock.recv(client.proof_bytes, socket.MSG_WAITALL))
            except struct.error as error:
                raise AssertionError(f"{name} does not shake hands any more") from error
            except HandshakeError as error:
                raise AssertionError(f"{name} does not know its token any more") from error
            try:
                for part in sent:
                    sock.sendall(part)
                    self.sent[f"{name}, after it"] += 1
                    sock.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        if not sock.recv(1 << 16):
                            return
                    sock.settimeout(10)
            except (BrokenPipeError, ConnectionResetError):
                return

    async def calls(self, name: str, address: str, methods: dict[str, Any], count: int) -> None:
        right, wrong = self.target.session.token, self.inputs.rng.randbytes(32)
        clients = [GrpcClient(address, right), GrpcClient(address, wrong)]
        try:
            waits = []
            for _ in range(count):
                method = self.inputs.rng.choice(list(methods))
                client = clients[self.inputs.rng.random() < 0.1]
                waits.append(
                    client.call_raw(method, self.inputs.request(methods[method]), timeout=0.5)
                )
                self.sent[f"{name}, gRPC calls"] += 1
            for outcome in await asyncio.gather(*waits, return_exceptions=True):
                if isinstance(outcome, BaseException) and not isinstance(outcome, RpcError):
                    raise outcome
        finally:
            for client in clients:
                await client.close()

    def garbage(self, name: str, address: tuple[str, int], data: bytes) -> None:
        with self.target.connect(address) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(data)
            if self.inputs.rng.random() < 0.5:
                with contextlib.suppress(OSError):  # it was sent away before
                    sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(TimeoutError):
                    sock.settimeout(0.5)
                    sock.recv(1 << 16)
        self.sent[name] += 1

    def round(self) -> None:
        """A bit of everything."""
        for name in self.target.sockets:
            for _ in range(5):
                self.stranger(name)
                self.member(name)
        asyncio.run(self.calls("GCS", self.target.gcs, GCS_METHODS, 30))
        asyncio.run(self.calls("raylet", self.target.raylet_grpc, RAYLET_METHODS, 30))
        for name, address in (("GCS", self.target.gcs), ("raylet", self.target.raylet_grpc)):
            host, _, port = address.rpartition(":")
            preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            data = preface + self.inputs.rng.randbytes(300)
            self.garbage(f"{name}, HTTP/2", (host, int(port)), self.inputs.mutated(data))
        if self.target.http is not None:
            bearer = b"Authorization: Bearer " + self.target.session.token.hex().encode()
            for _ in range(5):
                self.garbage("dashboard", self.target.http, self.inputs.http(bearer))


def run(
    seed: int, seconds: float, dashboard: bool = True, traffic: list[bytes] | None = None,
    least: int = 0,
) -> Counter[str]:  # fmt: skip
    """Attack a new cluster for so long, by so many inputs; how many each listener got.

    ``traffic``: what an earlier run recorded; with it and its seed, the inputs are the same.

    Raises:
        AssertionError: a process is gone, grew or logged a traceback, or the cluster is broken.
    """
    inputs = Inputs(seed, traffic or record())
    target = Target(dashboard)
    attack = Attack(inputs, target)
    try:
        until = time.monotonic() + seconds
        attack.round()
        target.check_work()
        before = target.measure()
        while time.monotonic() < until or attack.sent.total() <= least:
            attack.round()
            target.check_work()
        _wait(lambda: _fds_are_back(target, before), lambda: f"{before}, now {target.measure()}")
        after = target.measure()
        for name, (resident, _) in after.items():
            grown = resident - before[name][0]
            assert grown < GROWTH_ALLOWED, f"the {name} grew by {grown >> 20} MB"
        target.check_work()
        errors = target.tracebacks()
        assert not errors, "\n".join(errors)
    except BaseException as error:
        replay = Path(tempfile.gettempdir()) / f"nbray-fuzz-{seed}.msgpack"
        replay.write_bytes(msgspec.msgpack.encode(inputs.recorded))
        raise AssertionError(
            f"python tests/wire/fuzz.py --seed {seed} --traffic {replay} failed after "
            f" {attack.sent.total()} inputs: {error!r}\n"
            + "\n".join([*target.tracebacks(), *target.last_words()])
        ) from error
    finally:
        nbray.shutdown()
    return attack.sent


def _fds_are_back(target: Target, before: dict[str, tuple[int, int]]) -> bool:
    return all(fds <= before[name][1] + 8 for name, (_, fds) in target.measure().items())


def _wait(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--traffic", type=Path, help="what a run that failed wrote")
    args = parser.parse_args()
    traffic = None
    if args.traffic is not None:
        traffic = msgspec.msgpack.decode(args.traffic.read_bytes(), type=list[bytes])
    with tempfile.TemporaryDirectory(prefix="nbt") as folder:
        os.environ["NBRAY_TMPDIR"] = str(Path(folder) / "sessions")
        os.environ["NBRAY_HANDSHAKE_TIMEOUT_S"] = "3"
        print(f"seed {args.seed}", flush=True)
        sent = run(args.seed, args.seconds, traffic=traffic)
    for name, count in sorted(sent.items()):
        print(f"{count:8}  {name}")
    print(f"{sent.total():8}  inputs in all")


if __name__ == "__main__":
    main()
