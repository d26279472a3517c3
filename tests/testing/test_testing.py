"""What is shipped for users' tests does what its documentation says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbray
from nbray.testing import Gate, JumpingClock, Proxy, wait_until

SUITE = """
import os
import nbray, pytest

def test_a_task_runs(nbray_cluster):
    assert nbray.get(nbray.remote(os.getpid).remote(), timeout=60) != os.getpid()

@pytest.mark.nbray(num_cpus=3)
def test_options_are_those_of_init(nbray_cluster):
    assert nbray.cluster_resources()["CPU"] == 3

def test_a_gate_holds_a_task(nbray_module_cluster, gate):
    ref = nbray.remote(lambda gate: gate.wait_here() or 5).remote(gate)
    gate.wait_for(1)
    assert not nbray.wait([ref], timeout=0)[0]
    gate.open()
    assert nbray.get(ref, timeout=60) == 5
"""


def test_a_users_suite_has_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["nbray.testing.fixtures"]\n')
    (tmp_path / "test_mine.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


def test_pytest_is_imported_for_its_fixtures_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import nbray.testing, sys; print('pytest' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


def test_a_worker_is_killed_exactly_where_it_waits(cluster: Path, tmp_path: Path) -> None:
    @nbray.remote(max_retries=1)
    def task(gate: Gate) -> str:
        gate.wait_here()
        return "done"

    gate = Gate(tmp_path)
    ref = task.remote(gate)
    (pid,) = gate.wait_for(1)
    os.kill(pid, signal.SIGKILL)
    first, second = gate.wait_for(2)
    assert first == pid != second
    gate.open()
    assert nbray.get(ref, timeout=60) == "done"


def test_a_gate_that_nobody_opens_fails_with_what_was_waited_for(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the gate to be opened"):
        Gate(tmp_path, timeout=0.05).wait_here()
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: 2 at the gate"):
        Gate(tmp_path, timeout=0.05).wait_for(2)


def test_a_clock_jumps_forwards_and_backwards() -> None:
    clock = JumpingClock(10.0)
    assert clock() == clock() == 10.0
    clock.jump(3600.0)
    clock.jump(-10.0)
    assert clock() == 3600.0


class Echo:
    """A server that sends all back."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return  # the end of the test
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
            except OSError:
                return  # it was cut


@pytest.fixture(params=["loopback", "unix"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy before an echo, over either kind of socket."""
    unix = request.param == "unix"
    echo = Echo(str(tmp_path / "echo") if unix else "")
    with Proxy(echo.listener.getsockname(), str(tmp_path / "proxy") if unix else "") as found:
        yield found
    echo.listener.shutdown(socket.SHUT_RDWR)
    echo.listener.close()


def connected(proxy: Proxy) -> socket.socket:
    count = len(proxy.connections)
    sock = socket.socket(socket.AF_UNIX if isinstance(proxy.place, str) else socket.AF_INET)
    sock.settimeout(30)
    sock.connect(proxy.place)
    wait_until(lambda: len(proxy.connections) > count, "the proxy to connect")
    return sock


def ends(sock: socket.socket) -> bool:
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


def test_a_proxy_passes_everything_on_until_it_cuts(proxy: Proxy) -> None:
    with connected(proxy) as sock:
        data = os.urandom(1 << 20)
        writer = threading.Thread(target=sock.sendall, args=(data,))
        writer.start()
        got = b""
        while len(got) < len(data):
            got += sock.recv(65536)
        writer.join()
        assert got == data
        assert proxy.cut() == 1 and proxy.cut() == 0
        assert ends(sock)
    with connected(proxy) as again:
        again.sendall(b"anew")
        assert again.recv(100) == b"anew"


def test_what_is_held_arrives_in_the_order_in_which_it_is_let_go(proxy: Proxy) -> None:
    socks = [connected(proxy) for _ in range(3)]
    proxy.hold()
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(30)
    for number in (2, 0, 1):
        proxy.release([number])
        assert socks[number].recv(1) == b"%d" % number
    for sock in socks:
        sock.close()


def test_what_is_late_is_not_lost_and_a_cut_ends_its_wait(proxy: Proxy) -> None:
    with connected(proxy) as sock, connected(proxy) as other:
        proxy.delay(0.05)
        sock.sendall(b"late")
        assert sock.recv(100) == b"late"
        proxy.delay(1000.0)
        other.sendall(b"never")
        proxy.cut()
        assert ends(other)


def test_who_is_refused_finds_the_connection_ended(proxy: Proxy) -> None:
    proxy.refuse()
    with socket.socket(socket.AF_UNIX if isinstance(proxy.place, str) else socket.AF_INET) as sock:
        sock.settimeout(30)
        sock.connect(proxy.place)
        assert ends(sock)
    proxy.refuse(False)
    with connected(proxy) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
