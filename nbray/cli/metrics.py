"""``nbray metrics``: a Prometheus of this machine that scrapes a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from nbray.cli.state import address_option, clear_errors
from nbray.cli.terminal import CliError, say
from nbray.common.pids import start_time
from nbray.state.client import find_cluster, find_dashboard
from nbray.state.dashboard import Dashboard, api_key

_PORT = 9090
_EVERY_S = 10
_START_S = 30.0
_END_S = 20.0
_LOOK_S = 0.1
_HOW_TO = (
    "Install it (apt-get install prometheus, brew install prometheus, or "
    "https://prometheus.io/download), or name the program by --binary PATH."
)


@dataclass(frozen=True)
class _Place:
    """What is kept of the Prometheus of this user: its configuration, data, log and pid."""

    folder: Path

    @classmethod
    def of_user(cls) -> _Place:
        return cls(Path.home() / ".nbray" / "prometheus")

    def running(self) -> int | None:
        """Its pid, if it runs."""
        try:
            pid, began = map(int, (self.folder / "pid").read_text().split())
        except (OSError, ValueError):
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            if start_time(pid) == began and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return pid
        return None

    def write(self, name: str, text: str) -> Path:
        """Write a file that nobody else reads."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        return path


@click.group()
def metrics() -> None:
    """A Prometheus of this machine that scrapes a cluster; none is needed for the dashboard."""


@metrics.command("launch-prometheus")
@click.option("--binary", help="The program; prometheus of the PATH by default.")
@click.option("--port", type=click.IntRange(1, 65535), default=_PORT, show_default=True,
              help="Where it listens, on this machine only.")  # fmt: skip
@address_option
@clear_errors
def launch_prometheus(binary: str | None, port: int, address: str | None) -> None:
    """Start a Prometheus that is installed here, with a key that reads this cluster's metrics.

    It goes on when this command has ended; its data are in ~/.nbray/prometheus.
    """
    program = shutil.which(binary or "prometheus")
    if program is None:
        named = f"{binary!r} is no program" if binary else "Prometheus is not installed here"
        raise CliError(f"{named}. {_HOW_TO}")
    cluster, token = find_cluster(address)
    found = find_dashboard(cluster, token)
    if found is None:
        raise CliError(f"Cluster {cluster} has no dashboard, which is what is scraped.")
    place = _Place.of_user()
    if pid := place.running():
        raise CliError(
            f"A Prometheus of yours runs already, pid {pid}: nbray metrics shutdown-prometheus "
            "ends it."
        )
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise CliError(
            f"Port {port} is not free ({error.strerror}): --port names another."
        ) from error
    place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = place.write("key", api_key(token))
    config = place.write("prometheus.yml", json.dumps(_config(found, key, place), indent=1))
    listens = f"127.0.0.1:{port}"
    log_path = place.folder / "prometheus.log"
    with log_path.open("w") as log:
        server = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.tsdb.path={place.folder / 'data'}",
             f"--web.listen-address={listens}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    place.write("pid", f"{server.pid} {start_time(server.pid)}")
    _wait_until_it_listens(server, port, log_path)
    say(f"Prometheus runs at http://{listens}, pid {server.pid}, and scrapes {found.base}/metrics.")
    say("nbray metrics shutdown-prometheus ends it. Dashboards for Grafana: deploy/grafana.")


def _config(found: Dashboard, key: Path, place: _Place) -> dict[str, object]:
    """The configuration; JSON is YAML."""
    scraped: dict[str, object] = {
        "job_name": "nbray",
        "scheme": "https" if found.has_tls else "http",
        "authorization": {"type": "Bearer", "credentials_file": str(key)},
        "static_configs": [{"targets": [found.place], "labels": {"cluster": found.cluster}}],
    }
    if found.has_tls:
        authority = place.write("ca.pem", found.authority())
        scraped["tls_config"] = {"ca_file": str(authority), "server_name": "nbray"}
    return {
        "global": {"scrape_interval": f"{_EVERY_S}s"},
        "scrape_configs": [scraped],
    }


def _wait_until_it_listens(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Raises CliError if it ends instead, as when its port is another's."""
    until = time.monotonic() + _START_S
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > until:
                say(f"It does not listen yet; its log is {log}.", err=True)
                return
            time.sleep(_LOOK_S)
        else:
            if server.poll() is None:
                return
    last = "\n".join(log.read_text(errors="replace").splitlines()[-3:])
    raise CliError(f"Prometheus has ended with {server.returncode}. Its last lines:\n{last}")


@metrics.command("shutdown-prometheus")
def shutdown_prometheus() -> None:
    """End the Prometheus that `launch-prometheus` started; its data stay."""
    place = _Place.of_user()
    pid = place.running()
    if pid is None:
        raise CliError("No Prometheus that nbray metrics launch-prometheus started runs here.")
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + _END_S
    while place.running() is not None:
        if time.monotonic() > until:
            raise CliError(f"It has not ended within {_END_S:.0f} s; kill -9 {pid} ends it.")
        time.sleep(_LOOK_S)
    say(f"Prometheus, pid {pid}, has ended.")
