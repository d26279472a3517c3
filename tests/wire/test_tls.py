"""TLS under the frame wire: two sides without a network, and what each says when they differ."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from nbray.launcher.tls import TlsFiles, TlsOptions
from nbray.wire.certificates import Authority
from nbray.wire.handshake import ClientHandshake, HandshakeError, ServerHandshake
from nbray.wire.tls import Tls, TlsError, TlsSocket, TlsStream

TOKEN = b"a token of 32 characters, or more"


def files_of(folder: Path, authority: Authority, days: float = 10) -> TlsFiles:
    """What a node of that authority has."""
    folder.mkdir(exist_ok=True)
    authority.pair.write(folder, "ca")
    authority.sign(["localhost"], days).write(folder, "node")
    return TlsFiles(folder / "node.crt", folder / "node.key", folder / "ca.crt")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return files_of(tmp_path_factory.mktemp("ours"), Authority.new()).tls


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return files_of(tmp_path_factory.mktemp("theirs"), Authority.new()).tls


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return files_of(tmp_path_factory.mktemp("expired"), Authority.new(), days=-0.5).tls


def meet(client: TlsStream, server: TlsStream) -> None:
    """Carry what the two say to each other until neither has anything more to say."""
    client.shake_hands()
    while True:
        said = client.take()
        server.feed(said) if said else None
        answer = server.take()
        client.feed(answer) if answer else None
        if not said and not answer:
            return


def both(one: Tls, other: Tls) -> tuple[TlsStream, TlsStream]:
    client, server = one.connecting(), other.accepting()
    meet(client, server)
    return client, server


def test_what_one_side_says_the_other_hears_and_nobody_between_them(ours: Tls) -> None:
    client, server = both(ours, ours)
    assert client.is_up and server.is_up
    for one, other in ((client, server), (server, client)):
        for size in (1, 16_384, 16_385, 3_000_000):
            data = bytes(range(256)) * (size // 256 + 1)
            one.write(data[:size])
            carried = one.take()
            assert data[:16] not in carried
            other.feed(carried)
            assert other.read() == data[:size]
    server.feed(b"")
    assert server.read() == b""


def test_a_session_binds_what_is_proved_in_it(ours: Tls) -> None:
    client, server = both(ours, ours)
    again, _ = both(ours, ours)
    assert client.binding() == server.binding() != again.binding()
    with pytest.raises(TlsError, match="not over"):
        ours.connecting().binding()


def test_who_stands_between_with_a_good_certificate_cannot_pass_the_proof_on(ours: Tls) -> None:
    place = ("10.0.0.1", 7000)
    client, near = both(ours, ours)
    far, server = both(ours, ours)
    member = ClientHandshake(TOKEN, lambda: place, client.binding)
    asked = ServerHandshake(TOKEN, place, server.binding)
    reply, _ = member.feed(asked.hello)
    with pytest.raises(HandshakeError, match="in another's place"):
        asked.feed(reply)
    assert near.is_up and far.is_up, "TLS itself has let it in"
    # The same without anybody between.
    member = ClientHandshake(TOKEN, lambda: place, client.binding)
    asked = ServerHandshake(TOKEN, place, near.binding)
    proof, rest = asked.feed(member.feed(asked.hello)[0])
    assert rest == b"" and member.feed(proof) == (b"", b"")


def test_a_session_that_was_recorded_and_is_said_again_gets_nowhere(ours: Tls) -> None:
    client, server = ours.connecting(), ours.accepting()
    client.shake_hands()
    recorded = [client.take()]
    server.feed(recorded[0])
    client.feed(server.take())
    client.write(b"the opening")
    recorded.append(client.take())
    server.feed(recorded[1])
    assert server.read() == b"the opening"
    again = ours.accepting()
    again.feed(recorded[0])
    with pytest.raises(TlsError):
        again.feed(recorded[1])
    assert not again.is_up


def test_a_certificate_of_another_authority_is_refused_and_the_peer_is_told(
    ours: Tls, theirs: Tls
) -> None:
    client, server = ours.connecting(), theirs.accepting()
    with pytest.raises(TlsError, match=r"peer's certificate is refused .*NBRAY_TLS_CA_CERT"):
        meet(client, server)
    with pytest.raises(TlsError, match=r"refuses this process: its certificate is of an authority"):
        server.feed(client.take())


def test_a_certificate_that_has_expired_is_refused_by_its_name(expired: Tls) -> None:
    client, server = expired.connecting(), expired.accepting()
    with pytest.raises(TlsError, match=r"has expired\): renew it there"):
        meet(client, server)
    with pytest.raises(TlsError, match=r"certificate has expired, as it says: renew it"):
        server.feed(client.take())


def test_a_server_that_refuses_the_client_tells_it_after_the_handshake(
    ours: Tls, theirs: Tls, tmp_path: Path
) -> None:
    # The client trusts the server, and the server not the client.
    mixed = Tls(theirs._files[0], ours._authority, theirs._files[1])
    client, server = mixed.connecting(), ours.accepting()
    with pytest.raises(TlsError, match="peer's certificate is refused"):
        meet(client, server)
    assert client.is_up
    client.feed(server.take())
    with pytest.raises(TlsError, match="refuses this process: its certificate is of an authority"):
        client.read()


@pytest.mark.parametrize("said", [b"NBRY" + bytes(60), b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 99])
def test_a_peer_without_tls_is_told_from_one_with_a_wrong_certificate(
    ours: Tls, said: bytes
) -> None:
    client = ours.connecting()
    client.shake_hands()
    with pytest.raises(TlsError, match=r"without TLS.*NBRAY_USE_TLS=1"):
        client.feed(said)
    with pytest.raises(TlsError, match=r"without TLS.*NBRAY_USE_TLS=1"):
        ours.accepting().feed(said)
    hello = ours.connecting()
    hello.shake_hands()
    with pytest.raises(HandshakeError, match="speaks TLS, and this process without"):
        ServerHandshake(TOKEN).feed(hello.take())


def test_a_socket_that_is_full_takes_the_same_bytes_later(ours: Tls) -> None:
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client, server = TlsSocket(near, ours.connecting()), TlsSocket(far, ours.accepting())
    data = memoryview(bytes(range(256)) * 8192)
    sent, heard, room = 0, bytearray(), bytearray(1 << 18)
    client.send(b"")
    while len(heard) < len(data):
        with contextlib.suppress(BlockingIOError):
            sent += client.send(data[sent:])
        for side in (server, client):
            try:
                size = side.recv_into(room)
                heard += room[:size]
            except BlockingIOError:
                pass
    assert heard == data and sent == len(data)
    near.close()
    assert server.recv_into(room) == 0
    far.close()


def test_certificates_are_checked_before_anything_starts(tmp_path: Path) -> None:
    ours, theirs = Authority.new(), Authority.new()
    good = files_of(tmp_path / "good", ours)
    other = files_of(tmp_path / "other", theirs)
    assert good.check() == "nbray"
    old = files_of(tmp_path / "old", ours, days=-0.5)
    for files, text in (
        (old, "old/node.crt .* has expired.*nbray tls init"),
        (TlsFiles(good.certificate, good.key, other.authority), "cannot be used with .*/other/"),
        (TlsFiles(good.certificate, other.key, good.authority), "do not belong together: KEY_VAL"),
        (TlsFiles(good.authority, good.key, good.authority), "do not belong together"),
        (TlsFiles(good.key, good.key, good.authority), "do not belong together"),
    ):
        with pytest.raises(ValueError, match=text):
            files.check()
    with pytest.raises(OSError, match=r"NBRAY_TLS_SERVER_KEY=.*nowhere cannot be read"):
        TlsFiles(good.certificate, tmp_path / "nowhere", good.authority).read()


def test_the_environment_says_whether_and_with_what() -> None:
    def said(**variables: str) -> TlsOptions:
        return TlsOptions.from_environment(variables)

    assert said() == said(NBRAY_USE_TLS="0", RAY_USE_TLS="1") == TlsOptions()
    assert said(NBRAY_USE_TLS="1") == said(RAY_USE_TLS="true") == TlsOptions(True)
    assert said(NBRAY_TLS_CA_CERT="ca") == TlsOptions(), "as in Ray, it takes the switch"
    files = TlsFiles(Path("c"), Path("k"), Path("a"))
    of_ray = {"RAY_TLS_SERVER_CERT": "x", "RAY_TLS_SERVER_KEY": "k", "RAY_TLS_CA_CERT": "a"}
    assert said(RAY_USE_TLS="1", NBRAY_TLS_SERVER_CERT="c", **of_ray) == TlsOptions(True, files)
    with pytest.raises(ValueError, match="NBRAY_USE_TLS is 1 or 0, not 'maybe'"):
        said(NBRAY_USE_TLS="maybe")
    with pytest.raises(ValueError, match="NBRAY_TLS_SERVER_KEY and NBRAY_TLS_CA_CERT must be set"):
        said(NBRAY_USE_TLS="1", NBRAY_TLS_SERVER_CERT="c")
