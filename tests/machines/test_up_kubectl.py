"""`nbray exec`, `attach`, `submit`, `rsync` and others on Kubernetes, by the real kubectl.

No real API server and no real kubelet is meant by this: see `support.kube_api`.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.everywhere import program_on
from support.kubelet import KubeCluster, kube_cluster, why_not

from nbray.testing import wait_until
from nbray.wire.certificates import Authority

_REASON = why_not()
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
SMALL = {"CPU": 1, "object_store_memory": 100_000_000}


class Place:
    """Where the file is, and the command."""

    def __init__(self, kube: KubeCluster) -> None:
        self.kube = kube
        self.given: dict[str, Any] = {
            "cluster_name": "far",
            "provider": {"type": "kubernetes", "image": "registry/nbray:1",
                         "kubectl": str(kube.base / "kubectl"), "ready_timeout_s": 150},
            "available_node_types": {
                "top": {"resources": SMALL}, "small": {"resources": SMALL, "min_workers": 1},
            },
            "head_node_type": "top",
        }  # fmt: skip

    def write(self, **changed: Any) -> None:
        self.given |= changed
        (self.kube.base / "far.yaml").write_text(yaml.safe_dump(self.given))

    def nbray(self, verb: str, *args: str, code: int = 0) -> str:
        done = self.kube.run("nbray", verb, "far.yaml", *args, timeout=200)
        logs = "".join(f"\n--- {name}\n{said[-2000:]}" for name, said in self.kube.api.logs.items())
        assert done.returncode == code, done.stdout + done.stderr + logs
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A head and a worker, whose traffic is TLS."""
    with kube_cluster(6) as kube:
        one = Place(kube)
        Authority.of(kube.base / "authority")
        (kube.base / "where it is.py").write_text(program_on(2, "pods"))
        one.write(tls=str(kube.base / "authority"))
        one.nbray("up", "-y")
        yield one
        one.nbray("down", "-y")
        wait_until(lambda: not kube.kubelet.running, "the end of all pods", 60)


def test_a_command_runs_in_the_head_and_its_exit_code_comes_back(place: Place) -> None:
    said = place.nbray("exec", "echo on $(hostname) in $NBRAY_ADDRESS; exit 7", code=7)
    assert "on far-head-0 in far-head-0.far.default:6379" in said


def test_a_script_is_copied_and_runs_with_its_words_on_all_pods(place: Place) -> None:
    said = place.nbray("submit", "where it is.py", "it's", "two words")
    assert "ran on 2 pods it's two words" in said


def test_files_go_to_the_head_and_come_back(place: Place) -> None:
    data = place.kube.base / "data"
    data.mkdir()
    (data / "a b").write_bytes(bytes(range(256)) * 10_000)
    place.nbray("rsync-up", "data", "/tmp/there")
    assert "a b" in place.nbray("exec", "ls /tmp/there")
    place.nbray("rsync-down", "/tmp/there", "back")
    assert (place.kube.base / "back" / "a b").read_bytes() == (data / "a b").read_bytes()


def test_a_shell_has_a_terminal_and_knows_the_cluster(place: Place) -> None:
    typed = place.kube.run(
        "sh", "-c", "printf 'echo in $NBRAY_ADDRESS; tty; exit 5\\n' | "
        "script -qec 'nbray attach far.yaml' /dev/null; echo left with $?",
    )  # fmt: skip
    assert "in far-head-0.far.default:6379" in typed.stdout, typed.stdout + typed.stderr
    assert "left with 5" in typed.stdout


def test_addresses_are_those_of_the_pods(place: Place) -> None:
    head, worker = (place.nbray(f"get-{who}").split() for who in ("head-ip", "worker-ips"))
    assert len(head) == len(worker) == 1 and head != worker


def test_the_head_s_log_is_followed(place: Place) -> None:
    following = place.kube.start("nbray", "monitor", "far.yaml", "--lines=50")
    assert following.stdout is not None
    assert following.stdout.readline()
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=30)


def test_a_port_here_leads_to_the_dashboard_with_a_link_that_logs_in(place: Place) -> None:
    forwarding = place.kube.start("nbray", "dashboard", "far.yaml", "--port=18265")
    assert forwarding.stdout is not None
    try:
        said = []
        while not said or "localhost:18265" not in said[-1]:
            said.append(forwarding.stdout.readline().strip())
            assert said[-1], said
        link = said[-1]
        assert link.startswith("https://")
        page = place.kube.run("curl", "-sSLk", "-c", "/dev/null", link, timeout=60)
        assert "nbray" in page.stdout and page.returncode == 0, page.stdout + page.stderr
    finally:
        forwarding.send_signal(signal.SIGINT)
        forwarding.communicate(timeout=30)


def test_the_certificate_is_in_a_secret_and_another_authority_makes_the_pods_anew(
    place: Place,
) -> None:
    kube = place.kube
    secret = kube.api.store.objects["v1", "secrets", "default", "far-tls"]
    assert set(secret["data"]) == {"tls.crt", "tls.key", "ca.crt"}
    assert "last-applied" not in str(secret["metadata"])
    assert kube.run("curl", "-sS", f"http://{place.nbray('get-head-ip').strip()}:8265/").returncode
    before = {name: kube.api.store.pod(name)["metadata"]["uid"] for name in kube.api.names("pods")}
    assert "unchanged" in place.nbray("up", "-y")
    assert kube.api.store.objects["v1", "secrets", "default", "far-tls"] == secret
    shutil.rmtree(kube.base / "authority")
    Authority.of(kube.base / "authority")
    assert "configured" in place.nbray("up", "--dry-run")
    place.nbray("up", "-y")

    def all_anew() -> bool:
        there = {name: kube.api.store.pod(name)["metadata"] for name in kube.api.names("pods")}
        anew = [one for name, one in there.items() if before.get(name) != one["uid"]]
        return len(anew) == len(there) == len(before)

    wait_until(all_anew, "new pods", 120)
    place.nbray("up", "-y")
    assert "ran on 2" in place.nbray("submit", "where it is.py")


def test_workers_of_a_fixed_number_go_alone_and_come_back(place: Place) -> None:
    place.nbray("up", "-y")
    assert "fixed number" in place.nbray("down", "-y", "--keep-min-workers")
    place.nbray("down", "-y", "--workers-only")
    wait_until(lambda: list(place.kube.kubelet.running) == ["far-head-0"], "the worker's end", 100)
    place.nbray("up", "-y")
    assert len(place.kube.kubelet.running) == 2


def test_an_autoscaler_lets_workers_go_with_tls_until_the_next_up(place: Place) -> None:
    small = place.given["available_node_types"]["small"] | {"max_workers": 2}
    types = place.given["available_node_types"] | {"small": small}
    fixed = place.given["available_node_types"]
    place.write(available_node_types=types)
    place.nbray("up", "-y")
    wait_until(lambda: len(place.nbray("get-worker-ips").split()) == 1, "a worker", 60)
    ran = place.nbray("submit", "where it is.py")
    assert "ran on 2" in ran or "ran on 3" in ran  # it may have grown by that
    place.nbray("down", "-y", "--workers-only")
    assert "far: small 0 to 0" in place.nbray("exec", "nbray status")
    place.nbray("up", "-y")
    wait_until(lambda: len(place.nbray("get-worker-ips").split()) == 1, "the worker again", 60)
    place.write(available_node_types=fixed)
    place.nbray("up", "-y")
    wait_until(
        lambda: set(place.kube.api.names("pods")) == {"far-head-0", "far-small-0"},
        "the end of the pods of an autoscaler that there is no more", 100,
    )  # fmt: skip


def test_all_goes_with_the_notebook_s_pod(place: Place) -> None:
    """The head's set and the secrets belong to it, and the API removes what belongs to nobody."""
    kube = place.kube
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "notebook"},
           "spec": {"containers": [{"name": "c", "image": "registry/missing:1"}]}}  # fmt: skip
    kube.api.do(kube.api.store.add(("v1", "pods", "default", "notebook"), pod))
    place.write(provider=place.given["provider"] | {"owner_pod": "notebook"})
    place.nbray("down", "-y")
    place.nbray("up", "-y")
    assert len(kube.kubelet.running) == 2
    kube.run("kubectl", "delete", "pod", "notebook", "--wait=false", "--grace-period=0", "--force")
    wait_until(lambda: not kube.kubelet.running, "the end of all pods", 100)
    left = [key[3] for key in kube.api.store.objects if key[1] in ("statefulsets", "secrets")]
    assert not left
