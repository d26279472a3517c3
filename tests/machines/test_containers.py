"""Containers with limits are nodes, of an almost empty image and of deploy/Containerfile's."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import containers

from nbray.testing import wait_until

_REASON = containers.why_not() or ("" if os.getuid() == 0 else "limits of containers need root")
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
PODMAN = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
NET = "10.77.11"
TOKEN = "e" * 64


@pytest.fixture(scope="module")
def network() -> Iterator[list[str]]:
    """Two places in a network of their own."""
    prefix = f"nc{os.getpid() % 100_000}x"
    script = Path(containers.__file__).with_name("netns_hosts.sh")
    env = os.environ | {"NETNS_NET": NET}
    made = subprocess.run([script, "up", prefix, "2"], env=env, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this root may not make network namespaces: {made.stderr}")
    yield [f"ns:/run/netns/{prefix}{number}" for number in range(2)]
    subprocess.run([script, "down", prefix], env=env, capture_output=True)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    name = f"localhost/nbray-test-{uuid.uuid4().hex[:8]}"
    containers.import_image(PODMAN, name)
    yield name
    subprocess.run([*PODMAN, "rmi", "-f", name], capture_output=True)


@pytest.fixture
def names() -> Iterator[list[str]]:
    made = [f"nbray-{role}-{uuid.uuid4().hex[:8]}" for role in ("head", "worker")]
    yield made
    subprocess.run([*PODMAN, "rm", "-f", "--time", "0", *made], capture_output=True)


def run(name: str, image: str, place: str, *words: str) -> None:
    command = [
        *PODMAN, "run", "-d", "--name", name, "--hostname", name, "--network", place,
        "--cpus=1", "--memory=1g", "--user=1000:1000", f"--env=NBRAY_AUTH_TOKEN={TOKEN}",
        "--env=HOME=/tmp", *containers.run_options(), image, *words,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


SEES = """
import nbray, json, os, time
nbray.init("auto")
@nbray.remote(num_cpus=1)
def where():
    time.sleep(0.3)
    return os.uname().nodename
while len(nbray.nodes()) < 2:
    time.sleep(0.1)
names, until = set(), time.monotonic() + 90
while len(names) < 2 and time.monotonic() < until:  # one may have its worker later
    names |= set(nbray.get([where.remote() for _ in range(20)], timeout=90))
print(json.dumps({"names": sorted(names), "has": nbray.cluster_resources()}))
"""


def test_two_containers_with_limits_make_a_cluster(
    network: list[str], image: str, names: list[str]
) -> None:
    head, worker = names
    address = f"{NET}.10"
    run(head, image, network[0], "nbray", "start", "--head", "--block", "--port=6379",
        f"--node-ip-address={address}", "--include-dashboard=0")  # fmt: skip

    def says(name: str) -> str:
        done = subprocess.run([*PODMAN, "logs", name], capture_output=True, text=True)
        return done.stdout + done.stderr

    wait_until(lambda: " runs, cluster " in says(head), "the head", 60)
    run(worker, image, network[1], "nbray", "start", "--block", f"--address={address}:6379",
        f"--node-ip-address={NET}.11")  # fmt: skip
    wait_until(lambda: " runs, cluster " in says(worker), "the worker", 60)
    seen = subprocess.run(
        [*PODMAN, "exec", head, "python", "-c", SEES], capture_output=True, text=True, timeout=120
    )
    assert seen.returncode == 0, seen.stderr
    told = json.loads(seen.stdout)
    assert told["names"] == sorted(names)
    assert told["has"]["CPU"] == 2 and told["has"]["memory"] < 2 << 30
    stopped = subprocess.run([*PODMAN, "stop", "--time", "30", worker], capture_output=True)
    assert stopped.returncode == 0
    code = [*PODMAN, "container", "inspect", "-f", "{{.State.ExitCode}}", worker]
    assert subprocess.run(code, capture_output=True, text=True).stdout.strip() == "0"


def test_the_containerfile_makes_an_image_whose_node_reaps_and_ends_by_a_signal(
    network: list[str], names: list[str]
) -> None:
    """`NBRAY_TEST_BASE_IMAGE` has Debian with Python and tini; pip has what nbray needs."""
    base = os.environ.get("NBRAY_TEST_BASE_IMAGE")
    if not base:
        pytest.skip("building an image needs NBRAY_TEST_BASE_IMAGE, an image with Python and tini")
    root = Path(__file__).parents[2]
    name = f"localhost/nbray-built-{uuid.uuid4().hex[:8]}"
    built = subprocess.run(
        [*PODMAN, "build", "-q", "--isolation=chroot", "--network=host", "--build-arg",
         f"BASE={base}", "-t", name, "-f", str(root / "deploy" / "Containerfile"), str(root)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    try:
        head = names[0]
        command = [*PODMAN, "run", "-d", "--name", head, "--network", network[0],
                   *containers.limits(), "--memory=1g", name]  # fmt: skip
        assert subprocess.run(command, capture_output=True).returncode == 0
        inside = [*PODMAN, "exec", head]
        program = "import nbray; nbray.init('auto'); print(nbray.get(nbray.put(7)))"
        wait_until(
            lambda: subprocess.run(
                [*inside, "python", "-c", program], capture_output=True).stdout == b"7\n",
            "the node", 60,
        )  # fmt: skip
        first = subprocess.run([*inside, "cat", "/proc/1/comm"], capture_output=True, text=True)
        assert first.stdout == "tini\n"
        user = subprocess.run([*inside, "id", "-u"], capture_output=True, text=True)
        assert user.stdout == "1000\n"
        subprocess.run([*PODMAN, "stop", "--time", "30", head], capture_output=True)
        code = [*PODMAN, "container", "inspect", "-f", "{{.State.ExitCode}}", head]
        assert subprocess.run(code, capture_output=True, text=True).stdout.strip() in ("0", "143")
    finally:
        subprocess.run([*PODMAN, "rmi", "-f", name], capture_output=True)
