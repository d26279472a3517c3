"""TLS by way of the dashboard, on nodes of an autoscaler, and past the end of a certificate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import command
from support.far_driver import TOKEN, start_far_head
from support.nodes import MB

import nbray
from nbray.cluster_utils import AutoscalingCluster
from nbray.common.addresses import is_loopback, own_address
from nbray.launcher.dashboard import DashboardOptions
from nbray.testing import Gate, wait_until
from nbray.wire.certificates import Authority

pytestmark = pytest.mark.slow
FILES = {"SERVER_CERT": "node.crt", "SERVER_KEY": "node.key", "CA_CERT": "ca.crt"}


def certify(folder: Path, monkeypatch: pytest.MonkeyPatch, days: float = 10) -> None:
    """Have what is started show a certificate of an authority in ``folder``."""
    authority = Authority.of(folder)
    authority.sign([], days).write(folder, "node")
    monkeypatch.setenv("NBRAY_USE_TLS", "1")
    for name, file in FILES.items():
        monkeypatch.setenv(f"NBRAY_TLS_{name}", str(folder / file))


@pytest.fixture(params=["token", "authority"])
def with_tls(
    request: pytest.FixtureRequest, session_root: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[str]:  # fmt: skip
    monkeypatch.setenv("NBRAY_USE_TLS", "1")
    if request.param == "authority":
        certify(tmp_path / "authority", monkeypatch)
    return request.param


def test_the_dashboard_s_https_leads_into_a_cluster_with_tls(
    with_tls: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = own_address("192.0.2.1:1")
    if is_loopback(own):
        pytest.skip("this machine has no address but loopback")
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    node = start_far_head(object_store_memory=100 * MB, dashboard=DashboardOptions(True, own, 0))
    try:
        with nbray.init(f"https://{node.webui_url.removeprefix('https://')}"):
            assert nbray.get(nbray.remote(lambda x: x + 1).remote(1), timeout=60) == 2
        if with_tls == "authority":
            certify(tmp_path / "of_others", monkeypatch)
            with pytest.raises(ConnectionError, match=r"certificate at https://.* is refused"):
                nbray.init(f"https://{node.webui_url.removeprefix('https://')}")
    finally:
        node.stop()


def test_nodes_that_an_autoscaler_starts_have_tls_as_the_head(
    session_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certify(tmp_path / "authority", monkeypatch)
    cluster = AutoscalingCluster(
        {"CPU": 0}, {"one": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 2}},
        idle_timeout_minutes=1,
    )  # fmt: skip
    cluster.start(override_env={"NBRAY_AUTOSCALER_UPDATE_INTERVAL_S": "0.25"})
    try:
        nbray.init(cluster.address)

        gate = Gate(tmp_path)

        @nbray.remote(num_cpus=1)
        def where() -> str:
            gate.wait_here()
            return str(nbray.get_runtime_context().get_node_id())

        refs = [where.remote() for _ in range(2)]
        gate.wait_for(2)
        gate.open()
        assert len(set(nbray.get(refs, timeout=60))) == 2
    finally:
        nbray.shutdown()
        cluster.shutdown()


@pytest.mark.timeout(240)
def test_past_the_end_of_a_certificate_connections_go_on_and_new_ones_are_told_why(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    holds_s = 30.0  # in which three commands start on a busy machine
    certify(tmp_path / "authority", monkeypatch, holds_s / 86400)
    end = time.time() + holds_s
    started = command("start", "--head", "--port=0", "--num-cpus=1", "--include-dashboard=0",
                      "--object-store-memory=100MB")  # fmt: skip
    assert started.returncode == 0, started.stderr
    try:
        assert "holds for 0.0 days more" in command("status").stdout
        nbray.init("auto")

        @nbray.remote
        class Kept:
            def ask(self) -> int:
                return 7

        kept = Kept.remote()
        assert nbray.get(kept.ask.remote(), timeout=60) == 7
        wait_until(lambda: time.time() > end + 1, "the certificate's end", 40)
        assert nbray.get([kept.ask.remote() for _ in range(100)], timeout=60) == [7] * 100
        told = command("status")  # within the machine nobody needs it
        assert told.returncode == 0 and "has expired" in told.stdout, told.stdout + told.stderr
        address = nbray.get_runtime_context().gcs_address
        words = ("start", f"--address={address}", "--num-cpus=1", "--object-store-memory=80MB")
        joining = command(*words)
        assert joining.returncode and "certificate has expired" in joining.stderr, joining.stderr
    finally:
        nbray.shutdown()
        assert command("stop").returncode == 0
