"""The tunnel by itself: whatever is cut and however often, everything arrives once and in order."""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbray.client import tunnel as t
from nbray.client.carrier import Carrier
from nbray.client.tunnel import Tunnel

SMALL = t.Limits(
    unacknowledged=400, window=100, largest_window=400, budget=600, pending=150, part=40
)


class Side:
    """One side, with a reader for each stream that reads when it is told to."""

    def __init__(self, dials: bool) -> None:
        self.tunnel = t.Tunnel(dials, SMALL)
        self.wrote: dict[int, bytes] = defaultdict(bytes)
        self.came: dict[int, bytes] = defaultdict(bytes)
        self.unread: dict[int, int] = defaultdict(int)
        self.headers: dict[int, bytes] = {}
        self.closed: dict[int, str] = {}
        self.full: set[int] = set()
        self.open: list[int] = []

    def heard(self, events: list[t.Event]) -> None:
        for event in events:
            match event:
                case t.Opened(stream, header):
                    assert stream not in self.headers
                    self.headers[stream] = header
                    self.open.append(stream)
                case t.Data(stream, data):
                    assert stream not in self.closed
                    self.came[stream] += bytes(data)
                    self.unread[stream] += len(data)
                    assert self.unread[stream] <= SMALL.largest_window
                case t.Closed(stream, reason):
                    self.closed[stream] = reason
                case t.HasRoom(stream):
                    self.full.discard(stream)

    def write(self, stream: int, data: bytes) -> None:
        if stream in self.full or stream in self.closed or not data:
            return
        self.wrote[stream] += data
        if not self.tunnel.send(stream, data):
            self.full.add(stream)

    def read(self, stream: int) -> None:
        count, self.unread[stream] = self.unread[stream], 0
        if count:
            self.tunnel.consumed(stream, count)


class Path:
    """The connection between two sides, which loses what is on its way when it is cut."""

    def __init__(self) -> None:
        self.left, self.right = Side(True), Side(False)
        self.on_way = {True: b"", False: b""}

    def side(self, left: bool) -> Side:
        return self.left if left else self.right

    def move(self, left: bool, most: int) -> None:
        """What that side has to say goes out, and at most so many bytes of it arrive."""
        side = self.side(left)
        out = b"".join(bytes(part) for part in side.tunnel.take(200))
        side.heard(side.tunnel.news())
        on_way = self.on_way[left] + out
        arrived, self.on_way[left] = on_way[:most], on_way[most:]
        if arrived:
            self.side(not left).heard(self.side(not left).tunnel.feed(arrived))
        assert side.tunnel.kept <= 4 * SMALL.unacknowledged

    def cut(self) -> None:
        self.on_way = {True: b"", False: b""}
        left, right = self.left.tunnel, self.right.tunnel
        received = left.received, right.received
        left.resume(received[1])
        right.resume(received[0])

    def settle(self) -> None:
        """Nothing is cut any more, and everybody reads."""
        for _ in range(3000):
            for left in (True, False):
                side = self.side(left)
                for stream in list(side.unread):
                    side.read(stream)
                side.tunnel.ping()
                self.move(left, 1 << 20)
            if self.left.tunnel.drained and self.right.tunnel.drained:
                return
        raise AssertionError("it does not come to an end")


ACTS = st.one_of(
    st.tuples(st.just("open"), st.booleans(), st.booleans(), st.binary(max_size=20)),
    st.tuples(st.just("write"), st.booleans(), st.integers(0, 9), st.binary(max_size=120)),
    st.tuples(st.just("read"), st.booleans(), st.integers(0, 9), st.none()),
    st.tuples(st.just("move"), st.booleans(), st.integers(1, 300), st.none()),
    st.tuples(st.just("close"), st.booleans(), st.integers(0, 9), st.none()),
    st.tuples(st.just("cut"), st.booleans(), st.none(), st.none()),
    st.tuples(st.just("ping"), st.booleans(), st.none(), st.none()),
)


@settings(max_examples=150)
@given(st.lists(ACTS, max_size=80))
def test_all_that_is_written_arrives_once_and_in_order(
    acts: list[tuple[str, bool, int, bytes]],
) -> None:
    path = Path()
    opened: dict[int, bytes] = {}
    closed: set[tuple[bool, int]] = set()
    for what, left, number, data in acts:
        side = path.side(left)
        stream = side.open[number % len(side.open)] if side.open and number is not None else None
        if what == "open":
            new = side.tunnel.open(data, bulk=bool(number))
            opened[new] = data
            side.open.append(new)
        elif what == "move":
            path.move(left, number)
        elif what == "cut":
            path.cut()
        elif what == "ping":
            side.tunnel.ping()
        elif stream is None or (left, stream) in closed:
            continue
        elif what == "write":
            side.write(stream, data)
        elif what == "read":
            side.read(stream)
        elif what == "close" and stream not in side.closed:
            side.tunnel.close(stream, "done")
            closed.add((left, stream))
    path.settle()
    assert path.left.headers | path.right.headers == opened
    for left in (True, False):
        writer, reader = path.side(left), path.side(not left)
        for stream, wrote in writer.wrote.items():
            came = reader.came[stream]
            both_open = stream not in writer.closed and (not left, stream) not in closed
            # Who closes a stream reads no more of it; all others get the whole.
            assert came == wrote if both_open else wrote.startswith(came)
        for stream in reader.closed:
            assert (left, stream) in closed


def test_a_stream_that_nobody_reads_stops_and_the_others_go_on() -> None:
    path = Path()
    idle, busy = path.left.tunnel.open(b"idle"), path.left.tunnel.open(b"busy")
    for _ in range(50):
        path.left.write(idle, b"x" * 50)
        path.left.write(busy, b"y" * 50)
        path.move(True, 1 << 20)
        path.right.read(busy)
        path.right.tunnel.ping()
        path.move(False, 1 << 20)
        path.right.tunnel.acknowledge(at_once=True)
    assert idle in path.left.full
    assert len(path.right.came[idle]) == SMALL.window
    assert len(path.right.came[busy]) > 1000


def test_bulk_waits_for_what_is_short() -> None:
    path = Path()
    bulk, short = path.left.tunnel.open(b"", bulk=True), path.left.tunnel.open(b"")
    path.left.write(bulk, b"x" * 140)
    path.left.write(short, b"now")
    parts = [bytes(part) for part in path.left.tunnel.take(1 << 20)]
    assert parts.index(b"now") < next(i for i, part in enumerate(parts) if part[:1] == b"x")


def test_a_window_grows_for_one_who_reads() -> None:
    path = Path()
    stream = path.left.tunnel.open(b"")
    rounds = 0
    while len(path.right.came[stream]) < 2000:
        path.left.write(stream, b"z" * 100)
        path.move(True, 1 << 20)
        path.right.read(stream)
        path.right.tunnel.acknowledge(at_once=True)
        path.move(False, 1 << 20)
        rounds += 1
        assert rounds < 100
    assert path.right.tunnel._streams[stream].window == SMALL.largest_window


_HEAD = struct.Struct("<BII")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_HEAD.pack(t.Kind.DATA, 1, 1 << 30), id="a frame of a gigabyte"),
        pytest.param(_HEAD.pack(99, 1, 0), id="an unknown kind"),
        pytest.param(_HEAD.pack(t.Kind.OPEN, 2, 0), id="a stream that is not its to open"),
        pytest.param(_HEAD.pack(t.Kind.OPEN, 1, 0) * 2, id="a stream twice"),
        pytest.param(_HEAD.pack(t.Kind.CREDIT, 1, 3) + b"abc", id="a short number")
    ],
)  # fmt: skip
def test_a_peer_that_breaks_the_protocol_is_told_from_one_that_is_cut(data: bytes) -> None:
    side = t.Tunnel(dials=False, limits=SMALL)
    if data[0] == t.Kind.CREDIT:
        side.feed(_HEAD.pack(t.Kind.OPEN, 1, 0))
    with pytest.raises(t.TunnelError):
        side.feed(data)


def test_more_than_a_window_is_refused() -> None:
    side = t.Tunnel(dials=False, limits=SMALL)
    side.feed(_HEAD.pack(t.Kind.OPEN, 1, 0))
    part = _HEAD.pack(t.Kind.DATA, 1, 40) + b"x" * 40
    side.feed(part * 2)
    with pytest.raises(t.TunnelError, match="window"):
        side.feed(part)


def test_a_peer_cannot_have_more_than_was_sent() -> None:
    side = t.Tunnel(dials=True, limits=SMALL)
    side.open(b"header")
    side.take(1000)
    with pytest.raises(t.TunnelError, match="cannot be"):
        side.resume(5)


@given(st.binary(max_size=300))
def test_random_bytes_are_taken_or_refused(data: bytes) -> None:
    side = t.Tunnel(dials=False, limits=SMALL)
    try:
        side.feed(data)
    except t.TunnelError:
        return
    assert len(side._rest) <= 4096 + _HEAD.size


class End:
    """Of a stream; one of them cannot take what comes."""

    def __init__(self, *, fails: bool = False) -> None:
        self.came = b""
        self.over = ""
        self._fails = fails

    def arrived(self, data: memoryview) -> None:
        if self._fails:
            raise MemoryError
        self.came += bytes(data)

    def closed(self, reason: str) -> None:
        self.over = reason

    def has_room(self) -> None:
        """It sends little."""


def test_a_stream_whose_end_fails_is_closed_and_the_others_get_what_is_theirs() -> None:
    class Wire:
        def __init__(self) -> None:
            self.there: Carrier | None = None

        def write(self, parts: list[bytes]) -> None:
            assert self.there is not None
            asyncio.get_running_loop().call_soon(self.there.received, b"".join(parts))

        def close(self) -> None:
            """Nothing carries it any more."""

    async def scene() -> None:
        ends = {b"bad": End(fails=True), b"good": End()}
        here = Carrier(Tunnel(dials=True), lambda _number, _header: End(), lambda _reason: None)
        there = Carrier(Tunnel(dials=False), lambda _, header: ends[header], lambda _reason: None)
        one, other = Wire(), Wire()
        one.there, other.there = there, here
        here.take(one, 0)
        there.take(other, 0)
        bad, good = End(), End()
        here.send(here.open(b"bad", bad), b"x" * 10)
        here.send(here.open(b"good", good), b"y" * 10)
        async with asyncio.timeout(20):
            while not (bad.over and ends[b"good"].came):
                await asyncio.sleep(0)
        assert "MemoryError" in bad.over and ends[b"good"].came == b"y" * 10 and not good.over

    asyncio.run(scene())
