"""Clusters on Kubernetes: kubectl is real, the API is in memory, pods are processes in namespaces.

No real API server and no real kubelet is meant by this.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from support.everywhere import program_on
from support.kubelet import KubeCluster, kube_cluster, why_not

from nbray.testing import wait_until

_REASON = why_not()
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
SMALL = {"CPU": 1, "object_store_memory": 100_000_000}


@pytest.fixture(scope="module")
def kube() -> Iterator[KubeCluster]:
    with kube_cluster(5) as made:
        yield made


class File:
    def __init__(self, kube: KubeCluster) -> None:
        self.kube = kube
        self.given: dict[str, Any] = {
            "cluster_name": "mine",
            "provider": {"type": "kubernetes", "image": "registry/nbray:1",
                         "kubectl": str(kube.base / "kubectl")},
            "available_node_types": {
                "top": {"resources": SMALL}, "small": {"resources": SMALL, "min_workers": 2},
            },
            "head_node_type": "top",
        }  # fmt: skip

    def write(self, **changed: Any) -> None:
        self.given |= changed
        (self.kube.base / "mine.yaml").write_text(yaml.safe_dump(self.given))

    def nbray(self, verb: str, *args: str, fails: bool = False) -> str:
        done = self.kube.run("nbray", verb, "mine.yaml", *args)
        logs = "".join(f"\n--- {name}\n{said[-2000:]}" for name, said in self.kube.api.logs.items())
        assert bool(done.returncode) == fails, done.stdout + done.stderr + logs
        return done.stdout + done.stderr


@pytest.fixture
def file(kube: KubeCluster) -> Iterator[File]:
    one = File(kube)
    one.write()
    yield one
    one.nbray("down", "-y")
    wait_until(lambda: not kube.kubelet.running, "the end of all pods", 60)
    left = [key for key in kube.api.store.objects if key[1] not in ("events", "namespaces")]
    assert not left


def test_one_file_is_a_cluster_and_a_second_up_changes_nothing(file: File) -> None:
    kube = file.kube
    would = file.nbray("up", "--dry-run")
    assert "statefulset.apps/mine-head created" in would and not kube.api.names("pods")
    shown = file.nbray("up", "-y")
    assert shown.count("ready") >= 3
    pods = kube.api.names("pods")
    assert len(pods) == 3 and "mine-head-0" in pods
    assert "ran on 3 pods" in kube.python(program_on(3, "pods"))
    again = file.nbray("up", "-y")
    assert "unchanged" in again and kube.api.names("pods") == pods
    assert len(file.nbray("get-worker-ips").split()) == 2
    token = kube.run("kubectl", "get", "secret", "mine-token", "-o", "jsonpath={.data.token}")
    assert len(token.stdout) > 64 and token.stdout not in shown
    types = file.given["available_node_types"]
    file.write(available_node_types={"top": types["top"]})
    assert "would be deleted" in file.nbray("up", "--dry-run")
    file.nbray("up", "-y")
    wait_until(lambda: kube.api.names("pods") == ["mine-head-0"], "the workers' end", 60)


def test_what_a_pod_waits_for_is_told(file: File) -> None:
    kube = file.kube
    types = file.given["available_node_types"]
    types["small"] = types["small"] | {"min_workers": 4}
    broken = {"spec": {"containers": [{"image": "registry/missing:1"}]}}
    types["other"] = {"resources": SMALL, "min_workers": 1, "node_config": broken}
    file.write(
        provider=file.given["provider"] | {"ready_timeout_s": 25}, available_node_types=types
    )
    shown = " ".join(file.nbray("up", "-y", fails=True).split())
    assert 'ErrImagePull: failed to pull "registry/missing:1"' in shown
    assert "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu." in shown
    assert "mine-head-0" in kube.kubelet.running


KEEP = """
import nbray
nbray.init(namespace="n")
@nbray.remote(num_cpus=0, max_restarts=-1)
class Kept:
    def name(self):
        return "kept"
kept = Kept.options(name="kept", lifetime="detached").remote()
print(nbray.get(kept.name.remote(), timeout=60))
"""
FIND = """
import nbray
nbray.init(namespace="n")
print("found", nbray.get(nbray.get_actor("kept").name.remote(), timeout=60))
"""


@pytest.mark.parametrize("how", ["deleted", "killed"])
def test_a_head_s_pod_is_made_anew_and_the_cluster_goes_on(file: File, how: str) -> None:
    kube = file.kube
    file.nbray("up", "-y")
    kube.python(KEEP)
    before = kube.api.store.pod("mine-head-0")["metadata"]["uid"]
    workers = {name for name in kube.kubelet.running if "head" not in name}
    if how == "deleted":
        kube.run("kubectl", "delete", "pod", "mine-head-0", "--wait=false")
        wait_until(
            lambda: "mine-head-0" in kube.api.names("pods")
            and kube.api.store.pod("mine-head-0")["metadata"]["uid"] != before,
            "another head", 60,
        )  # fmt: skip
    else:
        process = kube.kubelet.running["mine-head-0"]
        os.kill(kube.kubelet.first_process("mine-head-0"), 9)
        wait_until(lambda: kube.kubelet.running.get("mine-head-0") is not process, "the end of it")
    file.nbray("up", "-y")
    assert "found kept" in kube.python(FIND)
    assert {name for name in kube.kubelet.running if "head" not in name} == workers
    assert "ran on 3 pods" in kube.python(program_on(3, "pods"))


def test_what_the_container_before_left_makes_no_pod_ready(file: File) -> None:
    kube = file.kube
    file.nbray("up", "-y")
    worker = next(name for name in kube.kubelet.running if "head" not in name)

    def is_ready() -> bool:
        conditions = kube.api.store.pod(worker)["status"]["conditions"]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    assert is_ready()
    # As it is between a container's start and the first command in it.
    kube.inside(worker, "sh", "-c", "echo 1 >/tmp/nbray/container")
    wait_until(lambda: not is_ready(), "its readiness to end", 60)


PUT = """
import nbray, os, time
nbray.init()
@nbray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_retries=0, num_returns=2)
def make():
    import numpy
    time.sleep(0.3)
    return os.uname().nodename, numpy.ones(300_000)
made = [make.remote() for _ in range(6)]
names = nbray.get([name for name, _ in made], timeout=60)
open("/tmp/names", "w").write(" ".join(names))
while not os.path.exists("/tmp/go"):
    time.sleep(0.1)
print(sum(float(one.sum()) for one in nbray.get([ref for _, ref in made], timeout=60)))
"""


def test_a_worker_s_pod_hands_on_what_only_it_has_before_it_ends(file: File) -> None:
    kube = file.kube
    file.nbray("up", "-y")
    with ThreadPoolExecutor(1) as thread:
        working = thread.submit(kube.python, PUT, 200)
        wait_until(lambda: kube.inside("mine-head-0", "cat", "/tmp/names").stdout != "", "values",
                   60)  # fmt: skip
        names = kube.inside("mine-head-0", "cat", "/tmp/names").stdout.split()
        lost = next(name for name in names if "small" in name)
        uid = kube.api.store.pod(lost)["metadata"]["uid"]
        kube.run("kubectl", "delete", "pod", lost, "--wait=false")
        wait_until(
            lambda: lost in kube.api.names("pods")
            and kube.api.store.pod(lost)["metadata"]["uid"] != uid,
            "another pod", 100,
        )  # fmt: skip
        said = kube.api.logs[lost]
        kube.inside("mine-head-0", "touch", "/tmp/go")
        failed = working.exception()
        assert failed is None, f"{failed}\nThe pod that ended has said:\n{said[-3000:]}"
        assert working.result() == "1800000.0\n"


def test_pods_come_with_the_demand_and_go_with_the_head(file: File) -> None:
    kube = file.kube
    types = {
        "top": {"resources": SMALL | {"CPU": 0}},
        "small": {"resources": SMALL, "max_workers": 3, "idle_timeout_s": 3},
    }
    file.write(available_node_types=types)
    file.nbray("up", "-y")
    assert kube.api.names("pods") == ["mine-head-0"]
    printed = kube.python(program_on(2, "pods"), 200)
    assert "ran on 3 pods" in printed or "ran on 2 pods" in printed, printed
    pods = [name for name in kube.api.names("pods") if "head" not in name]
    owner = kube.api.store.pod(pods[0])["metadata"]["ownerReferences"][0]
    assert owner["kind"] == "StatefulSet"
    wait_until(lambda: kube.api.names("pods") == ["mine-head-0"], "idle pods to leave", 90)
    assert list((kube.base / "claims").glob("*/s/*/logs/pod-mine-*.log"))


HOLD = """
import nbray, os, time
nbray.init()
@nbray.remote(max_retries=3)
def slow(number):
    time.sleep(15)
    return number
print("got", sum(nbray.get([slow.remote(n) for n in range(2)], timeout=200)))
"""


def workers(kube: KubeCluster) -> set[str]:
    return {name for name in kube.kubelet.running if "head" not in name}


def test_an_evicted_pod_is_replaced_while_the_api_goes_away_and_comes_back(file: File) -> None:
    kube = file.kube
    types = {
        "top": {"resources": SMALL | {"CPU": 0}},
        "small": {"resources": SMALL, "max_workers": 2, "idle_timeout_s": 3},
    }
    file.write(available_node_types=types)
    file.nbray("up", "-y")
    with ThreadPoolExecutor(1) as thread:
        working = thread.submit(kube.python, HOLD, 250)
        wait_until(lambda: len(workers(kube)) == 2, "two workers", 60)
        lost = min(workers(kube))
        with kube.api.away():
            wait_until(lambda: lost in workers(kube), "it to run")
            os.kill(kube.kubelet.first_process(lost), signal.SIGKILL)
            wait_until(lambda: lost not in workers(kube), "its end")
            time.sleep(8)  # longer than the pause between two looks: nobody may take this for empty
            assert len(workers(kube)) == 1
        assert working.result() == "got 1\n"
    said = kube.inside("mine-head-0", "sh", "-c", "cat /var/lib/nbray/s/*/logs/autoscaler.log")
    assert "does not answer" in said.stdout, said.stdout[-3000:]


def test_without_the_head_s_set_no_pod_is_left(file: File) -> None:
    kube = file.kube
    types = {
        "top": {"resources": SMALL}, "small": {"resources": SMALL, "min_workers": 1,
                                               "max_workers": 2},
    }  # fmt: skip
    file.write(available_node_types=types)
    file.nbray("up", "-y")
    wait_until(lambda: len(workers(kube)) == 1, "a worker", 60)
    kube.run("kubectl", "delete", "statefulset", "mine-head", "--wait=false")
    wait_until(lambda: not kube.api.names("pods"), "the end of all pods", 90)
