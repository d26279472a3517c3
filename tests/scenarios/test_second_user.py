"""Another user of the same machine: what he can see, and what he gets on a port that he took."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import nbray
from nbray.driver.joining import find_session
from nbray.testing import wait_until

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can play two users")


class SecondUser:
    """A fork of this process that runs ``act`` as another user; what it returns is JSON."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._reply, told = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(told)
            return
        status = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(told, json.dumps(act()).encode())
            status = 0
        finally:
            os._exit(status)

    def told(self) -> Any:
        """Wait for what it has to tell."""
        with os.fdopen(self._reply, "rb") as reply:
            text = reply.read()
        assert os.waitpid(self._pid, 0)[1] == 0, "the second user's part failed"
        return json.loads(text)


def test_another_user_sees_nothing_of_a_cluster(cluster: Path) -> None:
    session, info = find_session("auto")
    names = [session.path, session.path / "token", session.path / "identity.pem"]
    names += list((session.path / "sockets").iterdir()) + list((session.path / "logs").iterdir())
    pids = info["pids"]

    def look() -> list[str]:
        seen = []
        for path in names:
            try:
                os.listdir(path) if path == session.path else path.read_bytes()
                seen.append(str(path))
            except OSError:
                continue
        for pid in pids:
            for name in ("environ", "maps", "fd"):
                try:
                    path = Path(f"/proc/{pid}/{name}")
                    seen += [str(path)] if os.listdir(path) or path.read_bytes() else []
                except OSError:
                    continue
        with socket.socket(socket.AF_UNIX) as sock:
            if sock.connect_ex(info["raylet_socket"]) == 0:
                seen.append("the raylet's socket")
        return seen

    assert SecondUser(look).told() == []


@pytest.mark.slow
def test_another_user_on_the_port_of_the_gcs_hears_no_secret_and_the_cluster_goes_on(
    cluster: Path,
) -> None:
    session, info = find_session("auto")
    token = session.token
    host, _, port = info["gcs_address"].rpartition(":")
    gcs = psutil.Process(info["pids"][0])
    ready, begun = os.pipe()

    def take_the_port() -> list[str]:
        """Everything that is said there within a while, in hexadecimal digits."""
        heard: list[str] = []
        os.write(begun, b".")
        until = time.monotonic() + 30
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while listener.connect_ex((host, int(port))) == 0 or not _bound(listener, host, int(port)):
            listener.close()
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            assert time.monotonic() < until
            time.sleep(0.002)
        listener.listen(16)
        while len(heard) < 3:
            sock, _ = listener.accept()
            sock.settimeout(2)
            try:
                heard.append(sock.recv(65536).hex())
            except OSError:
                heard.append("")
        return heard

    thief = SecondUser(take_the_port)
    os.read(ready, 1)  # it is there before another GCS can be
    os.close(ready)
    os.close(begun)
    gcs.kill()
    heard = "".join(thief.told())
    assert heard, "nobody called"
    for secret in (token, token.hex().encode()):
        assert secret.hex() not in heard
    assert nbray.get(nbray.remote(lambda: 6 * 7).remote(), timeout=60) == 42
    wait_until(lambda: len(nbray.nodes()) == 1, "the GCS to be back", 60)


def _bound(listener: socket.socket, host: str, port: int) -> bool:
    try:
        listener.bind((host, port))
    except OSError:
        return False
    return True


def test_a_file_that_another_user_planted_does_not_run(session_root: Path) -> None:
    """As `nbray start` in a folder of mode 1777."""
    shared = Path(f"/tmp/nbray-planted-{os.getpid()}")
    shared.mkdir()
    shared.chmod(0o1777)

    def plant() -> None:
        for name in ("uvloop", "grpc", "msgspec", "psutil", "numpy", "random"):
            (shared / f"{name}.py").write_text(
                f"open({str(shared / 'ran')!r}, 'a').write(__name__)"
            )

    try:
        SecondUser(plant).told()
        for arguments in (["start", "--head", "--port=0", "--num-cpus=1"], ["stop"]):
            ended = subprocess.run(
                [str(Path(sys.executable).with_name("nbray")), *arguments],
                cwd=shared, capture_output=True, text=True, timeout=100,
                env={**os.environ, "NBRAY_AUTH_TOKEN": "x" * 32},
            )  # fmt: skip
            assert ended.returncode == 0, ended.stderr
        assert not (shared / "ran").exists()
    finally:
        subprocess.run(["rm", "-rf", str(shared)], check=True)
