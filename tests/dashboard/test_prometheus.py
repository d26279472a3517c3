"""A real Prometheus finds and scrapes the dashboard, and knows what Grafana's dashboards ask."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support.ports import free_port
from support.web import bearer, fetch

import nbray
from nbray.driver.context import NbrayContext
from nbray.state.dashboard import api_key
from nbray.testing import wait_until

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")


def expressions() -> list[tuple[str, str]]:
    """The expressions of all panels, with the panel's title."""
    found = []
    for path in sorted(GRAFANA.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            found += [(f"{path.stem}: {panel['title']}", t["expr"]) for t in panel["targets"]]
    return found


def work() -> Any:
    """Something in every metric; the actor that holds a resource."""

    @nbray.remote
    def double(number: int) -> int:
        return 2 * number

    @nbray.remote(max_retries=0)
    def fail() -> None:
        raise ValueError

    @nbray.remote(num_cpus=0, resources={"gold": 1})
    class Holder:
        def ready(self) -> bool:
            return True

    holder = Holder.remote()
    assert nbray.get(holder.ready.remote(), timeout=60)
    nbray.get([double.remote(number) for number in range(10)], timeout=60)
    nbray.wait([fail.remote()], timeout=60)
    return holder


@pytest.fixture
def context(session_root: Path) -> NbrayContext:
    """A cluster with something in every metric."""
    found = nbray.init(
        num_cpus=2, resources={"gold": 2}, object_store_memory=64 << 20, include_dashboard=True,
        dashboard_port=0,
    )  # fmt: skip
    return found


def test_prometheus_is_told_where_the_metrics_are(context: NbrayContext) -> None:
    base = f"http://{context.dashboard_url}"
    assert fetch(f"{base}/api/prometheus/sd")[0] == 401
    status, body, headers = fetch(f"{base}/api/prometheus/sd", bearer(context))
    assert status == 200 and headers["Content-Type"] == "application/json"
    (found,) = json.loads(body)
    assert found["targets"] == [context.dashboard_url] and found["labels"]["job"] == "nbray"


def test_names_in_grafanas_dashboards_are_of_this_exposition() -> None:
    from nbray.state import exposition

    source = Path(exposition.__file__).read_text()
    for title, expression in expressions():
        for name in re.findall(r"nbray_(\w+)", expression):
            assert f'"{name}"' in source, title


@pytest.mark.slow
@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool: apt-get install prometheus")
def test_promtool_has_no_complaint(context: NbrayContext) -> None:
    assert PROMTOOL is not None
    holder = work()
    _status, text, _headers = fetch(f"http://{context.dashboard_url}/metrics", bearer(context))
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, ""), holder


@contextmanager
def prometheus(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """A Prometheus with that configuration; yields its URL."""
    assert PROMETHEUS is not None
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    place = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}",
             f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={place}"],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield f"http://{place}"
        finally:
            server.terminate()
            server.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus: apt-get install prometheus")
def test_every_expression_of_grafanas_dashboards_runs_on_a_real_prometheus(
    context: NbrayContext, tmp_path: Path
) -> None:
    holder = work()
    token = (Path(context["session_dir"]) / "token").read_bytes()
    (tmp_path / "key").write_text(api_key(token))
    os.chmod(tmp_path / "key", 0o600)
    # Of discovery, Prometheus 2.42 does not make Bearer the default.
    who = {"type": "Bearer", "credentials_file": str(tmp_path / "key")}
    url = f"http://{context.dashboard_url}/api/prometheus/sd"
    discovery = [{"url": url, "authorization": who, "refresh_interval": "1s"}]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {"job_name": "nbray", "authorization": who, "http_sd_configs": discovery}
        ],
    }

    def ask(server: str, path: str, **query: str) -> Any:
        _status, body, _headers = fetch(f"{server}/api/v1/{path}?{urlencode(query)}")
        return json.loads(body)

    with prometheus(tmp_path, config) as server:

        def up() -> bool:
            try:
                targets = ask(server, "targets")["data"]["activeTargets"]
            except (OSError, ValueError):
                return False
            return [target["health"] for target in targets] == ["up"]

        wait_until(up, "Prometheus to scrape", 60)

        def twice() -> bool:
            found = ask(server, "query", query="count_over_time(up[1m])")["data"]["result"]
            return bool(found) and int(found[0]["value"][1]) > 3

        wait_until(twice, "several scrapes", 60)
        for title, expression in expressions():
            expression = re.sub(r'=~"\$\w+"', '=~".*"', expression)

            def has_value(title: str = title, expression: str = expression) -> bool:
                answer = ask(server, "query", query=expression)
                assert answer["status"] == "success", (title, answer)
                return bool(answer["data"]["result"])

            # What tasks have done is told a moment later, and a rate has two scrapes of it.
            wait_until(has_value, f"a value of {title}: {expression}, {holder}")
