"""Clusters whose wires have TLS: all goes on as without, and nobody comes in otherwise."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.far_driver import TOKEN, start_far_head
from support.nodes import MB, join_here
from support.strangers import is_closed

import nbray
from nbray.common.addresses import is_loopback, own_address, split
from nbray.common.process import ProcessStartError
from nbray.driver.joining import find_session
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import RunningNode, join
from nbray.launcher.tls import TlsFiles
from nbray.testing import wait_until
from nbray.wire.bulk import connect
from nbray.wire.certificates import Authority
from nbray.wire.credentials import take_certificates
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.handshake import ClientHandshake, HandshakeError
from nbray.wire.tls import Tls

VARIABLES = ("SERVER_CERT", "SERVER_KEY", "CA_CERT")


@pytest.fixture
def with_tls(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is started here has TLS."""
    monkeypatch.setenv("NBRAY_USE_TLS", "1")
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "2")
    return session_root


def use(files: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> TlsFiles:
    """Have nodes that are started here show these."""
    paths = files.certificate, files.key, files.authority
    for name, path in zip(VARIABLES, paths, strict=True):
        monkeypatch.setenv(f"NBRAY_TLS_{name}", str(path))
    return files


def files_of(folder: Path, authority: Authority, days: float = 10) -> TlsFiles:
    """What a node of that authority has."""
    folder.mkdir()
    authority.pair.write(folder, "ca")
    authority.sign([], days).write(folder, "node")
    return TlsFiles(folder / "node.crt", folder / "node.key", folder / "ca.crt")


def ports_of(node: str) -> set[int]:
    """Where the processes of a session's node listen by TCP, but for the GCS's gRPC."""
    here = psutil.Process().pid
    found = {here: psutil.Process()}
    for process in psutil.process_iter(["cmdline"]):
        if node in (process.info["cmdline"] or ()):
            found |= {one.pid: one for one in [process, *process.children(recursive=True)]}
    ports = set()
    for process in found.values():
        with suppress(psutil.NoSuchProcess):  # a worker that has left
            ports |= {
                connection.laddr.port for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }  # fmt: skip
    return ports


def work_on_both_nodes() -> None:
    """Tasks, actors, refs that travel, and objects either way."""

    @nbray.remote(resources={"far": 1})
    def double(values: np.ndarray) -> np.ndarray:
        return values * 2

    @nbray.remote(resources={"far": 1})
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self, n: int) -> int:
            self.count += n
            return self.count

        def ask(self, refs: list[nbray.ObjectRef]) -> int:
            return int(nbray.get(refs[0]).sum())

    values = np.arange(3 * MB, dtype=np.uint8)
    here = nbray.put(values)
    doubled = double.remote(here)
    assert (nbray.get(doubled, timeout=60) == values * 2).all()
    counter = Counter.remote()
    assert nbray.get([counter.add.remote(1) for _ in range(200)], timeout=60)[-1] == 200
    assert nbray.get(counter.ask.remote([here]), timeout=60) == int(values.sum())
    small = nbray.get([double.remote(np.arange(n)) for n in range(20)], timeout=60)
    assert [len(array) for array in small] == list(range(20))


def refuses_plain_speech(port: int) -> bool:
    """Whether somebody listens there; a worker that was too many has left."""
    try:
        sock = socket.create_connection(("127.0.0.1", port), 5)
    except ConnectionRefusedError:
        return False
    with sock:
        sock.settimeout(0.05)
        try:
            assert sock.recv(1) == b"", "without TLS the accepting side speaks first"
        except TimeoutError:
            pass  # it waits for the caller's word
        except ConnectionResetError:
            return False
        else:
            return False
        sock.sendall(b"NBRY and what a member without TLS would say " * 9)
        sock.settimeout(10)
        assert is_closed(sock)
    return True


def test_all_goes_on_as_without_and_no_socket_speaks_plainly(with_tls: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=100 * MB, include_dashboard=False)
    head, _ = find_session("auto")
    far = join_here({"far": 2, "CPU": 2})
    try:
        work_on_both_nodes()
        nodes = (str(head.path), str(far.session.path))
        ports = set().union(*map(ports_of, nodes))
        asked = [port for port in ports if refuses_plain_speech(port)]
        assert len(asked) >= 6, "of raylets, workers and this driver"
        left = (ports - set(asked)) & set().union(*map(ports_of, nodes))
        assert not left, "they listen, and nobody could ask them"
        work_on_both_nodes()
    finally:
        far.stop()


@pytest.mark.slow
def test_a_node_without_tls_is_told_to_have_it_and_the_reverse(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_USE_TLS", "1")
    nbray.init(num_cpus=1, object_store_memory=64 * MB, include_dashboard=False)
    monkeypatch.delenv("NBRAY_USE_TLS")
    with pytest.raises(ProcessStartError, match=r"this cluster has TLS: .*NBRAY_USE_TLS=1"):
        join_here()
    nbray.shutdown()
    nbray.init(num_cpus=1, object_store_memory=64 * MB, include_dashboard=False)
    monkeypatch.setenv("NBRAY_USE_TLS", "1")
    with pytest.raises(ProcessStartError, match="this cluster has no TLS: start the node without"):
        join_here()


def call(address: str, token: bytes) -> str:
    """What a call of the GCS fails with; empty when it does not."""

    async def ask() -> str:
        client = GrpcClient(address, token)
        try:
            await client.call_raw("ListNodes", b"\x90", timeout=10)
        except RpcError as error:
            return str(error)
        finally:
            await client.close()
        return ""

    return asyncio.run(ask())


@pytest.mark.slow
def test_certificates_of_ones_own_let_in_who_has_the_token_and_one_of_the_authority(
    with_tls: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, theirs = Authority.new(), Authority.new()
    first = use(files_of(tmp_path / "first", ours), monkeypatch)
    nbray.init(num_cpus=1, object_store_memory=100 * MB, include_dashboard=False)
    session, info = find_session("auto")
    address = info["gcs_address"]

    use(files_of(tmp_path / "second", ours), monkeypatch)
    far: RunningNode = join_here({"far": 2, "CPU": 2})
    try:
        work_on_both_nodes()
    finally:
        far.stop()

    other = use(files_of(tmp_path / "other", theirs), monkeypatch)
    with pytest.raises(ProcessStartError, match=r"certificate is refused .*NBRAY_TLS_CA_CERT"):
        join_here()
    use(files_of(tmp_path / "old", ours, days=-0.5), monkeypatch)
    with pytest.raises(ValueError, match=r"old/node.crt .* has expired.*nbray tls init"):
        join_here()
    use(TlsFiles(other.certificate, other.key, first.authority), monkeypatch)
    with pytest.raises(ValueError, match="cannot be used with"):
        join_here()
    use(first, monkeypatch)
    with pytest.raises(ProcessStartError, match="a certificate of the cluster and a wrong token"):
        join(address, NodeOptions({"CPU": 1}), token=b"a guess of 16 or more", fate_shared=True)
    for name in VARIABLES:  # the token's own
        monkeypatch.delenv(f"NBRAY_TLS_{name}")
    with pytest.raises(ProcessStartError, match="wrong cluster token"):
        join_here()
    # A program elsewhere, with its own certificate of the authority.
    take_certificates(session.token, first.read(), first.tls, "nbray")
    assert call(address, session.token) == ""
    take_certificates(b"a guess", first.read(), first.tls, "nbray")
    assert "a wrong token" in call(address, b"a guess")
    take_certificates(b"another", other.read(), other.tls, "nbray")
    assert "peer's certificate is refused" in call(address, b"another")
    assert nbray.get(nbray.remote(lambda: 6 * 7).remote(), timeout=60) == 42


@pytest.mark.slow
def test_a_driver_from_afar_has_tls_too_and_who_has_none_is_told(
    with_tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    node = start_far_head(num_cpus=1, object_store_memory=100 * MB, resources={"far": 2})
    try:
        address = f"nbray://{node.client_server}"
        with nbray.init(address):
            values = np.arange(2 * MB, dtype=np.uint8)
            assert (nbray.get(nbray.remote(lambda x: x * 2).remote(values)) == values * 2).all()

            @nbray.remote(resources={"far": 1})
            def asks_back(refs: list[nbray.ObjectRef]) -> int:
                return int(nbray.get(refs[0]).sum())

            here = nbray.put(values)
            assert nbray.get(asks_back.remote([here]), timeout=60) == int(values.sum())
        with socket.create_connection(split(node.client_server), 5) as sock:
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.recv(1)  # without TLS it speaks first
        monkeypatch.setenv("NBRAY_USE_TLS", "0")
        with pytest.raises(ConnectionError, match="is the token the same, and NBRAY_USE_TLS"):
            nbray.init(address)
    finally:
        node.stop()
    plain = start_far_head(num_cpus=1, object_store_memory=64 * MB)
    try:
        monkeypatch.setenv("NBRAY_USE_TLS", "1")
        with pytest.raises(ConnectionError, match="the peer speaks without TLS"):
            nbray.init(f"nbray://{plain.client_server}")
    finally:
        plain.stop()


@pytest.mark.slow
def test_a_dashboard_that_others_reach_speaks_https_and_its_members_trust_it(
    with_tls: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority.new()
    use(files_of(tmp_path / "node", authority), monkeypatch)
    own = own_address("192.0.2.1:1")
    if is_loopback(own):
        pytest.skip("this machine has no address but loopback")
    with nbray.init(num_cpus=1, include_dashboard=True, dashboard_host=own) as context:
        assert str(context.dashboard_url).startswith("https://")
        wait_until(lambda: not context.probe_dashboard(), "the dashboard to serve")
        assert str(context.login_link()).startswith(f"{context.dashboard_url}/login?key=")
        place = str(context.dashboard_url).removeprefix("https://")
        trust = ssl.create_default_context(cafile=str(tmp_path / "node" / "ca.crt"))
        with (
            socket.create_connection(split(place), 5) as plain,
            trust.wrap_socket(plain, server_hostname="nbray") as sock,
        ):
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 401")


@pytest.mark.slow
def test_who_asks_for_objects_needs_tls_the_authority_and_the_token(
    with_tls: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, theirs = Authority.new(), Authority.new()
    mine = use(files_of(tmp_path / "ours", ours), monkeypatch)
    nbray.init(num_cpus=1, object_store_memory=64 * MB, include_dashboard=False)
    session, _ = find_session("auto")
    host, port = nbray.nodes()[0]["NodeManagerAddress"], nbray.nodes()[0]["ObjectManagerPort"]
    connect(host, port, session.token, 5, mine.tls).close()
    for token, tls, why in (
        (session.token, files_of(tmp_path / "theirs", theirs).tls, "certificate is refused"),
        (b"a guess", mine.tls, "token"),
        (session.token, None, "timed out|closed"),
    ):
        with pytest.raises((HandshakeError, OSError), match=why):
            connect(host, port, token, 5, tls)
    # The proof of one session is worth nothing in another.
    with socket.create_connection((host, port), 5) as sock:
        stream = Tls.of(session.path).connecting()  # type: ignore[union-attr]
        stream.shake_hands()
        sock.sendall(stream.take())
        while not stream.is_up:
            stream.feed(sock.recv(65536))
        sock.sendall(stream.take())
        hello = b""
        while not (hello := hello + stream.read()):
            stream.feed(sock.recv(65536))
        unbound = ClientHandshake(session.token, sock.getpeername)
        stream.write(unbound.answer(hello))
        sock.sendall(stream.take())
        assert is_closed(sock)
