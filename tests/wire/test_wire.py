"""Frames and the handshake: pure parts, and what a hostile peer meets at a real raylet."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbray
from nbray.common.session import Session
from nbray.driver.joining import find_session
from nbray.testing import wait_until
from nbray.wire.frames import FrameDecoder, FrameError, FrameWriter, UnsendableError
from nbray.wire.gcs_messages import ChangeGroups
from nbray.wire.handshake import ClientHandshake, HandshakeError, ServerHandshake
from nbray.wire.link import Answer, Link, Opening
from nbray.wire.messages import (
    HandoverDone,
    Message,
    ReclaimLeases,
    RegisterDriver,
    TasksReturned,
    WatchActor,
)
from nbray.wire.reactor import Reactor
from nbray.wire.records import Address, BundleSpec, GroupSpec, JobConfig
from nbray.wire.waiting import Waiter


def frames(*batches: list[Message]) -> list[bytes]:
    """One frame for each batch."""
    writer, made = FrameWriter(1 << 20), []
    for batch in batches:
        for message in batch:
            writer.put(message)
        made += map(bytes, writer.take(0))
    return made


@given(
    ids=st.lists(st.lists(st.binary(max_size=40), max_size=5), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_survive_any_cut(ids: list[list[bytes]], cuts: list[int]) -> None:
    sent = [TasksReturned(batch) for batch in ids]
    data = b"".join(frames(*([message, ReclaimLeases()] for message in sent)))
    decoder, received, position, turn = FrameDecoder(1 << 20), [], 0, 0
    while position < len(data):
        step = cuts[turn % len(cuts)]
        received += decoder.feed(data[position : position + step])
        position, turn = position + step, turn + 1
    assert received[::2] == sent
    assert len(received) == 2 * len(sent)


def test_a_frame_of_4_gb_is_refused_by_its_length() -> None:
    with pytest.raises(FrameError, match="was announced"):
        FrameDecoder(1 << 20).feed(b"\xff\xff\xff\xff" + b"\0" * 4)


@given(st.binary(min_size=1, max_size=200))
def test_random_bytes_are_an_error_with_a_name_or_a_message(body: bytes) -> None:
    decoder = FrameDecoder(1 << 20)
    try:
        messages = decoder.feed(struct.pack("<II", len(body), 0) + body)
    except FrameError as error:
        assert "malformed" in str(error)
    else:
        assert isinstance(messages, list)


def test_frames_are_bounded_where_they_are_made() -> None:
    writer = FrameWriter(1 << 20)
    sent = [HandoverDone(bytes([i]) * 90_000) for i in range(40)]
    for message in sent:
        writer.put(message)
    decoder, received = FrameDecoder(1 << 20), []
    for frame in writer.take(0):
        assert len(frame) <= (1 << 20) + 8
        received += decoder.feed(frame)
    assert received == sent


def test_what_cannot_travel_fails_where_it_is_said_and_blocks_nothing() -> None:
    writer = FrameWriter(1 << 20)
    writer.put(HandoverDone(b"before"))
    with pytest.raises(UnsendableError, match=r"A HandoverDone of \d+ bytes cannot be sent"):
        writer.put(HandoverDone(b"x" * (1 << 20)))
    with pytest.raises(UnsendableError, match="A WatchActor cannot be sent"):
        writer.put(WatchActor(b"actor", 2**70))
    writer.put(HandoverDone(b"behind"))
    (frame,) = writer.take(0)
    assert FrameDecoder(1 << 20).feed(frame) == [HandoverDone(b"before"), HandoverDone(b"behind")]


def test_text_that_is_no_utf_8_travels_with_escapes() -> None:
    address = Address(b"w", b"n", "", "", 0)
    message = RegisterDriver(address, 1, "caf\udce9", ["/home/\udcff", "é"], "", "")
    (frame,) = frames([message])
    (received,) = FrameDecoder(1 << 20).feed(frame)
    assert isinstance(received, RegisterDriver)
    assert received.namespace == "caf\\udce9"
    assert received.sys_path == ["/home/\\udcff", "é"]
    assert received.address == address


@given(
    sends=st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.integers(0, 60)), max_size=30),
    cuts=st.lists(st.integers(0, 200), min_size=1, max_size=10),
)
def test_a_link_loses_and_doubles_nothing_wherever_its_sockets_are_cut(
    sends: list[tuple[bool, int, int]], cuts: list[int]
) -> None:
    """Both sides send; from time to time the bytes under way are lost behind some place."""
    sides = Link(1 << 20), Link(1 << 20)
    under_way = [b"", b""]  # to each side
    said: list[list[Message]] = [[], []]
    heard: list[list[Message]] = [[], []]

    def deliver(to: int, size: int) -> None:
        data, under_way[to] = under_way[to][:size], under_way[to][size:]
        heard[to] += sides[to].feed(data)
        under_way[1 - to] += sides[to].acknowledgement()

    for number, (second, count, size) in enumerate(sends):
        at = int(second)
        for index in range(count):
            message = HandoverDone(b"%d.%d" % (number, index) + b"x" * size)
            said[at].append(message)
            sides[at].put(message)
        under_way[1 - at] += b"".join(sides[at].take())
        cut = cuts[number % len(cuts)]
        deliver(1 - at, cut)
        if cut % 3 == 0:  # the socket breaks, and both tell what they have
            received = sides[0].received, sides[1].received
            for to in (0, 1):
                under_way[to] = b""
            for to in (0, 1):
                under_way[to] = b"".join(sides[1 - to].resume(received[to]))
    for to in (0, 1):
        deliver(to, len(under_way[to]))
    assert heard[1] == said[0]
    assert heard[0] == said[1]


def test_a_link_does_not_keep_what_the_other_side_has() -> None:
    near, far = Link(1 << 20), Link(1 << 20)
    for number in range(200):
        near.put(HandoverDone(b"%d" % number))
        far.feed(b"".join(near.take()))
        near.feed(far.acknowledgement())
    assert len(near.resume(far.received)) == 0
    near.put(HandoverDone(b"x"))
    far.feed(b"".join(near.take()))
    assert len(near.resume(far.received - 1)) == 1
    with pytest.raises(FrameError, match="are possible"):
        near.resume(far.received + 1)


@pytest.mark.parametrize(("count", "size"), [(32, 1), (4, 300_000)], ids=["frames", "bytes"])
def test_a_side_that_only_listens_tells_what_has_come(count: int, size: int) -> None:
    near, far = Link(1 << 20), Link(1 << 20)
    for number in range(count):
        assert not far.acknowledgement(), number
        near.put(HandoverDone(bytes(size)))
        far.feed(b"".join(near.take()))
    near.feed(far.acknowledgement())
    with pytest.raises(FrameError, match=f"has 0 frames; {count} to {count} are possible"):
        near.resume(0)  # they are kept no more


def test_a_placement_group_of_an_unknown_strategy_is_no_message() -> None:
    job = JobConfig(b"job1", "", Address(b"driver", b"node", "", "", 0), [], "")
    spec = GroupSpec(b"group", [BundleSpec({"CPU": 10000})], "PACK", job)
    body = msgspec.msgpack.encode(ChangeGroups(create=[spec]))
    assert msgspec.msgpack.decode(body, type=ChangeGroups).create == [spec]
    other = body.replace(b"PACK", b"PECK")
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value 'PECK'"):
        msgspec.msgpack.decode(other, type=ChangeGroups)


def test_both_sides_prove_the_token() -> None:
    server, client = ServerHandshake(b"secret"), ClientHandshake(b"secret")
    answer, left = client.feed(server.hello)
    assert left is None
    proof, left = server.feed(answer + b"rest")
    assert left == b"rest"
    assert client.feed(proof + b"more") == (b"", b"more")


def test_a_wrong_token_is_refused_on_both_sides() -> None:
    server, client = ServerHandshake(b"secret"), ClientHandshake(b"guess")
    with pytest.raises(HandshakeError, match="wrong token"):
        server.feed(client.answer(server.hello))
    with pytest.raises(HandshakeError, match="wrong token"):
        client.check(os.urandom(32))


def test_a_proof_holds_for_the_address_that_was_dialled() -> None:
    """Who is dialled by a member cannot pass the handshake on to another listener."""
    server = ServerHandshake(b"secret", ("10.0.0.1", 7000))
    member = ClientHandshake(b"secret", lambda: ("10.0.0.1", 7001))
    with pytest.raises(HandshakeError, match="another's place"):
        server.feed(member.answer(server.hello))
    # What the sockets of the two sides call one address.
    for there, here in (
        (("10.0.0.1", 7000), ("10.0.0.1", 7000)),
        (("10.0.0.1", 7000), ("::ffff:10.0.0.1", 7000, 0, 0)),
        (("fe80::1", 7000, 0, 2), ("fe80::1%eth0", 7000, 0, 3)),
        ("/tmp/x/caf\udce9", "/tmp/x/caf\udce9"),
    ):
        server = ServerHandshake(b"secret", there)
        client = ClientHandshake(b"secret", lambda here=here: here)
        proof, left = server.feed(client.answer(server.hello))
        assert client.feed(proof) == (b"", b"") and left == b""


@pytest.mark.parametrize(
    ("attack", "log_line"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak nbray's protocol"),
        (b"NBRY" + b"\0" * 80, "protocol version"),
        (b"NBRY\x03\0\x03\x639.\x1b[2J" + b"\0" * 64, "nbray 9.\\x1b[2J on Python 3.99"),
        (ServerHandshake(b"").hello + b"\0" * 32, "wrong token"),
    ],
    ids=["port scanner", "other version", "other software", "wrong token"],
)
def test_a_stranger_is_disconnected_with_a_log_line(
    cluster: Path, attack: bytes, log_line: str
) -> None:
    session, info = find_session("auto")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(info["raylet_socket"])
        sock.sendall(attack)
        while sock.recv(4096):
            pass
    _expect_in_log(session, log_line)
    assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=20) == 1


def test_a_member_with_a_huge_frame_is_disconnected(cluster: Path) -> None:
    session, info = find_session("auto")
    with socket.socket(socket.AF_UNIX) as sock:
        client = ClientHandshake(session.token, sock.getpeername)
        sock.settimeout(10)
        sock.connect(info["raylet_socket"])
        sock.sendall(client.answer(sock.recv(client.hello_bytes, socket.MSG_WAITALL)))
        client.check(sock.recv(client.proof_bytes, socket.MSG_WAITALL))
        sock.sendall(Opening(b"l" * 16).pack())
        assert Answer.unpack(sock.recv(Answer.SIZE, socket.MSG_WAITALL)).accepted
        sock.sendall(b"\xff\xff\xff\xff" * 2)
        assert sock.recv(1) == b""
    _expect_in_log(session, "4294967295 bytes")


def _expect_in_log(session: Session, text: str) -> None:
    log = session.log_path("raylet.log")
    wait_until(lambda: text in log.read_text(), f"{text!r} in the raylet's log")


def test_a_wait_ends_when_posted_work_completes_it() -> None:
    """What is waited for may be there since before the thread asked; nothing arrives any more."""
    reactor = Reactor()
    waiter = Waiter()
    reactor.inbox.append(waiter.complete_one)
    began = time.monotonic()
    assert reactor.wait(waiter, timeout=20)
    assert time.monotonic() - began < 10
    reactor.stop()
