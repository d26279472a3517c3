"""A Redis server of the tests' own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from nbray.testing import wait_until
from support.ports import free_port

NO_REDIS = shutil.which("redis-server") is None


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A Redis server of the tests' own, which keeps what it acknowledges."""
    if NO_REDIS:
        pytest.skip("redis-server is not installed")
    folder, port = tempfile.mkdtemp(prefix="nbredis"), free_port()
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
         "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, "Redis to listen")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)
