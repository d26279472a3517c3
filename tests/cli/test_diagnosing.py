"""Archives for reports, open ports, a Prometheus: what they find and what they never tell."""

from __future__ import annotations

import json
import shutil
import socket
import tarfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.ports import free_port

import nbray
from nbray.cli import main
from nbray.driver.driver import current_driver
from nbray.testing import wait_until


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@nbray.remote
def says(text: str) -> None:
    print(text, flush=True)


def test_a_dump_has_the_tables_and_the_end_of_each_log_and_no_token(
    cluster: Path, tmp_path: Path
) -> None:
    nbray.get(says.remote("one line that is looked for" + "x" * 500), timeout=60)
    path = tmp_path / "dump.tar.gz"
    done = run("cluster-dump", "-o", str(path), "--log-bytes", "400")
    assert done.exit_code == 0, done.output
    assert path.stat().st_mode & 0o77 == 0, "logs are for their owner"
    driver = current_driver()
    assert driver is not None
    token = driver.core.session.token
    found: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read()
    assert json.loads(found["state/nodes.json"])[0]["state"] == "ALIVE"
    assert {"packages.txt", "processes.txt", "state/tasks.json"} <= found.keys()
    logs = {name: data for name, data in found.items() if name.startswith("logs/")}
    assert any(name.endswith("raylet.log") for name in logs)
    assert max(map(len, logs.values())) <= 400
    assert any(data.endswith(b"xx\n") and b"one line" not in data for data in logs.values())
    for name, data in found.items():
        assert token not in data and token.hex().encode() not in data, name
    again = run("cluster-dump", "--local", "--no-pip", "--no-processes", "-o", str(path))
    assert again.exit_code == 0 and "files" in again.output
    nobody = run("cluster-dump", "--address", "127.0.0.1:1", "-o", str(tmp_path / "none"))
    assert nobody.exit_code == 1 and list(tmp_path.iterdir()) == [path], "nothing half done stays"


class _Service(BaseHTTPRequestHandler):
    """Tries ports from outside: finds the last one open."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["ports"]
        body = json.dumps({"open_ports": asked[-1:], "checked_ports": asked}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.mark.slow
def test_ports_are_told_with_who_reaches_them_and_a_service_is_asked_only_if_it_is_named(
    cluster: Path,
) -> None:
    told = run("check-open-ports")
    assert told.exit_code == 0, told.output
    assert "nbray.gcs" in told.output and "this machine only" in told.output
    assert "None of them can be reached from another machine." in told.output
    server = HTTPServer(("127.0.0.1", 0), _Service)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        found = run("check-open-ports", "--service-url", url, "-y")
        assert found.exit_code == 1 and "close them by a firewall" in found.output
        asked = CliRunner().invoke(main, ["check-open-ports", "--service-url", url], input="n\n")
        assert asked.exit_code == 1 and "Nobody was asked" in asked.output
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
    late = run("check-open-ports", "--service-url", url, "-y")
    assert late.exit_code == 1 and "did not tell" in late.output


def test_a_prometheus_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    missing = run("metrics", "launch-prometheus", "--binary", "no-such-program")
    assert missing.exit_code == 1 and "apt-get install prometheus" in missing.output
    assert "runs here" in run("metrics", "shutdown-prometheus").output


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="apt-get install prometheus")
def test_a_prometheus_is_started_once_scrapes_and_ends(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    context = nbray.init(num_cpus=1, include_dashboard=True, dashboard_port=0)
    port = free_port()
    words = ("metrics", "launch-prometheus", "--address", context["gcs_address"])
    started = run(*words, "--port", str(port))
    assert started.exit_code == 0, started.output
    try:
        assert "runs already" in run(*words).output
        folder = tmp_path / ".nbray" / "prometheus"
        assert (folder / "key").stat().st_mode & 0o77 == 0
        url = f"http://127.0.0.1:{port}/api/v1/query?query=nbray_nodes"

        def scraped() -> bool:
            try:
                with urllib.request.urlopen(url, timeout=60) as answer:
                    return b"ALIVE" in answer.read()
            except OSError:  # it listens before it answers
                return False

        wait_until(scraped, "Prometheus to scrape", 60)
    finally:
        assert "has ended" in run("metrics", "shutdown-prometheus").output
    with socket.create_server(("127.0.0.1", port)):
        taken = run(*words, "--port", str(port))
    assert taken.exit_code == 1 and f"Port {port} is not free" in taken.output


@pytest.mark.slow
def test_the_microbenchmark_prints_rates(session_root: Path) -> None:
    done = run("microbenchmark")
    assert done.exit_code == 0, done.output
    assert done.output.count(" per second ") == 7
