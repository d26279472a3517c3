"""The user's metrics and nbray's own, from tasks to the dashboard's ``/metrics``."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from support.commands import command
from support.web import bearer, fetch

import nbray
from nbray.core_worker.tell.metrics import Recorded
from nbray.driver.context import NbrayContext
from nbray.state.exposition import Exposition
from nbray.testing import wait_until
from nbray.util.metrics import Counter, Gauge, Histogram
from nbray.wire.records import MetricRow

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)\{((?:[a-zA-Z_]\w*=\"(?:[^\"\\\n]|\\.)*\",?)*)\} (\S+)")


def parsed(text: str) -> list[tuple[str, dict[str, str], float]]:
    """The samples of an exposition; every line must be a sample or a comment."""
    found = []
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2]))
        found.append((match[1], labels, float(match[3])))
    return found


def test_a_finalizer_may_record_in_the_middle_of_a_record() -> None:
    records = Recorded()

    class Ring:
        def __init__(self) -> None:
            self.ring = self

        def __del__(self) -> None:
            records.record(None, "counter", "ended", "", {}, 1.0, [])
            records.record(None, "histogram", "taken", "", {}, 2.0, [1.0])

    class Boundaries(list[float]):
        rings = 1

        def __len__(self) -> int:  # while it is recorded for the first time
            if self.rings:
                self.rings = 0
                Ring()
                gc.collect()
            return super().__len__()

    def record() -> None:
        records.record(None, "histogram", "taken", "", {}, 0.5, Boundaries([1.0]))

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for itself"
    sink = Mock()
    records.tell(sink)
    ((told,), _) = sink.to_raylet.call_args
    assert {row.name: row.value for row in told.rows} == {"ended": 1.0, "taken": 2.5}
    assert {row.name: row.counts for row in told.rows}["taken"] == [1, 1]


@pytest.fixture
def context(session_root: Path) -> NbrayContext:
    """A cluster with a dashboard on a free port."""
    return nbray.init(
        num_cpus=2, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0
    )


def samples(context: NbrayContext) -> list[tuple[str, dict[str, str], float]]:
    status, text, headers = fetch(f"http://{context.dashboard_url}/metrics", bearer(context))
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    return parsed(text)


def value(context: NbrayContext, metric: str, /, **labels: str) -> float | None:
    """The sum of the samples of that name that have these labels."""
    found = [
        number for sample, has, number in samples(context)
        if sample == metric and labels.items() <= has.items()
    ]  # fmt: skip
    return sum(found) if found else None


@nbray.remote
class Server:
    def __init__(self) -> None:
        self.requests = Counter("requests", "requests served", tag_keys=("route",))
        self.requests.set_default_tags({"route": "/"})
        self.load = Gauge("load", tag_keys=("server",))
        self.seconds = Histogram("seconds", "time taken", boundaries=[0.1, 1.0])

    def serve(self, route: str | None, seconds: float) -> int:
        self.requests.inc(tags={"route": route} if route else None)
        self.load.set(seconds, {"server": "a"})
        self.seconds.observe(seconds)
        return os.getpid()


def test_what_processes_record_is_added_up_and_gauges_end_with_them(context: NbrayContext) -> None:
    first, second = Server.remote(), Server.remote()
    pid = nbray.get(first.serve.remote(None, 0.05), timeout=30)
    nbray.get([second.serve.remote("/x", 0.5), first.serve.remote("/x", 7)], timeout=30)
    Counter("requests", tag_keys=("route",)).inc(40, {"route": "/x"})  # in the driver
    wait_until(lambda: value(context, "nbray_requests_total", route="/x") == 42, "the sum")
    assert value(context, "nbray_requests_total", route="/") == 1
    wait_until(lambda: value(context, "nbray_load", server="a") == 7.5, "both gauges")
    buckets = {
        labels["le"]: number for name, labels, number in samples(context)
        if name == "nbray_seconds_bucket"
    }  # fmt: skip
    assert buckets == {"0.1": 1, "1": 2, "+Inf": 3}
    assert value(context, "nbray_seconds_sum") == pytest.approx(7.55)
    assert value(context, "nbray_seconds_count") == 3

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: value(context, "nbray_load", server="a") == 0.5, "the gauge to end")
    assert value(context, "nbray_requests_total", route="/x") == 42, "what was counted stays"


def test_nbrays_own_metrics_are_there_and_only_with_the_token(context: NbrayContext) -> None:
    assert fetch(f"http://{context.dashboard_url}/metrics")[0] == 401
    actor = Server.remote()
    nbray.get(actor.serve.remote(None, 1), timeout=30)
    name = "Server.serve"
    wait_until(
        lambda: value(context, "nbray_tasks_total", name=name, state="FINISHED") == 1, "a call"
    )
    assert value(context, "nbray_nodes", state="ALIVE") == 1
    assert value(context, "nbray_actors", state="ALIVE") == 1
    assert value(context, "nbray_object_store_total_memory") == 64 << 20
    assert (value(context, "nbray_node_mem_used") or 0) > 0
    cpus = [
        number for sample, has, number in samples(context)
        if sample == "nbray_resources" and has["name"] == "CPU"
    ]  # fmt: skip
    assert len(cpus) == 2 and sum(cpus) == 2, "what is used, and what is free"


def test_the_dashboard_tells_of_tasks_as_json(context: NbrayContext) -> None:

    nbray.get(nbray.remote(os.getpid).options(name="whoami").remote(), timeout=30)
    status, text, _headers = fetch(f"http://{context.dashboard_url}/api/tasks", bearer(context))
    assert status == 200
    (row,) = json.loads(text)["tasks"]
    assert (row["name"], row["state"]) == ("whoami", "FINISHED")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Counter(""), ValueError, "Empty name is not allowed"),
        (lambda: Counter("a", tag_keys="x"), TypeError, "tag_keys should be a tuple type"),
        (lambda: Counter("a", tag_keys=("x", 1)), TypeError, "Tag keys must be str"),
        (lambda: Counter("a").inc(0), ValueError, "value must be >0, got 0"),
        (lambda: Counter("a").inc("1"), TypeError, "value must be int or float"),
        (lambda: Counter("a", tag_keys=("x",)).inc(), ValueError, r"tag key\(s\): x\."),
        (lambda: Counter("a", tag_keys=("x",)).inc(1, {"x": 1}), TypeError, "Tag values must be"),
        (lambda: Gauge("a").set_default_tags({"y": "1"}), ValueError, "Unrecognized tag key y"),
        (lambda: Gauge("a").set("x"), TypeError, "value must be int or float"),
        (lambda: Histogram("a"), ValueError, "boundaries argument should be provided"),
        (lambda: Histogram("a", boundaries=[0, 1]), ValueError, "at index 0"),
    ],
)
def test_what_is_wrong_is_refused_in_rays_words(make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_name_that_prometheus_does_not_know_is_warned_of_and_discarded() -> None:
    with pytest.warns(UserWarning, match="Invalid metric name: a b"):
        Counter("a b").inc()


def test_an_exposition_escapes_texts_and_keeps_one_kind_for_a_name() -> None:
    out = Exposition()
    out.add_row(MetricRow("gauge", "g", "two\nlines", {"t": 'a"b\\c\nd'}, 1.5, [], []), "n")
    out.add_row(MetricRow("gauge", "h", "", {"a-b": "1", "2": "1"}, 1e300, [], []), "n")
    out.add_row(MetricRow("histogram", "g", "", {}, 1.0, [1.0], [1, 0]), "n")
    assert out.text() == (
        "# HELP nbray_g two\\nlines\n# TYPE nbray_g gauge\n"
        'nbray_g{t="a\\"b\\\\c\\nd",node_id="n"} 1.5\n'
        "# HELP nbray_h of a program\n# TYPE nbray_h gauge\n"
        'nbray_h{a_b="1",_2="1",node_id="n"} 1e+300\n'
    )
    assert len(parsed(out.text())) == 2


def test_no_two_labels_of_a_series_have_one_name() -> None:
    """Prometheus would take nothing of the whole page."""
    out = Exposition()
    tags = {"a-b": "1", "a_b": "2", "a b": "3", "node-id": "4", "node_id": "5", "__name__": "6"}
    out.add_row(MetricRow("counter", "odd", "", tags, 1.0, [], []), "nd")
    tags = {"worker_id": "w", "worker-id": "1"}
    out.add_row(MetricRow("gauge", "level", "", tags, 1.0, [], []), "nd")
    for text in ("x", "y"):
        row = MetricRow("histogram", "took", "", {"le": text}, 1.0, [1.0], [1, 0])
        out.add_row(row, "nd")
    lines = out.text().splitlines()
    names = [re.findall(r'(\w+)="', line) for line in lines if not line.startswith("#")]
    assert all(len(set(found)) == len(found) for found in names), names
    assert 'a_b="2"' in lines[2] and 'exported_a_b="3"' in lines[2], "its own name stays"
    assert {"exported_node_id", "exported___name__"} < set(names[0])
    assert 'worker_id="w"' in lines[5] and 'exported_worker_id="1"' in lines[5]
    buckets = [line for line in lines if line.startswith("nbray_took_bucket")]
    assert len(set(buckets)) == 4 and 'exported_le="y"' in buckets[-1]


def test_a_boundary_that_is_named_twice_is_one() -> None:
    assert Histogram("twice", boundaries=[2, 1, 2.0]).info["boundaries"] == [1.0, 2.0]


def test_prometheus_reads_the_token_from_its_file(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NBRAY_INCLUDE_DASHBOARD", "1")
    started = command("start", "--head", "--port=0", "--dashboard-port=0", "--num-cpus=1")
    assert started.returncode == 0, started.stderr
    try:
        context = nbray.init("auto")
        credentials = (tmp_path / ".nbray" / "auth_token").read_text().strip()
        url = f"http://{context.dashboard_url}/metrics"
        assert fetch(url, {"Authorization": f"Bearer {credentials}"})[0] == 200
        assert fetch(url, {"Authorization": f"Bearer {credentials[:-1]}"})[0] == 401
        nbray.shutdown()
    finally:
        command("stop")
