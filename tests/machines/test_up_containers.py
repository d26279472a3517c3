"""The `docker:` section of a cluster's file, with podman on hosts that are reached by ssh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import containers
from support.everywhere import program_on
from support.laptop import FIRST, HEAD, Laptop, laptop_of
from support.ssh_hosts import Hosts, ssh_hosts, why_not

from nbray.testing import wait_until

_REASON = why_not() or containers.why_not()
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
IMAGE = "localhost/empty"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with ssh_hosts(3, path="/root/bin:") as made:
        for number in (1, 2):
            containers.podman_of(made.home(number) / "bin", "/root/containers")
            tar = made.home(number) / "rootfs.tar"
            tar.write_bytes(containers.rootfs())
            done = made.run(number, "podman", "import", "-q", "/root/rootfs.tar", IMAGE)
            assert done.returncode == 0, done.stderr
        yield made
        for number in (1, 2):
            made.run(number, "podman", "rm", "-af", "--time", "0")


@pytest.fixture
def laptop(hosts: Hosts) -> Iterator[Laptop]:
    with laptop_of(hosts) as one:
        docker = {
            "image": IMAGE, "container_name": "of_c", "pull_before_run": False, "use_podman": True,
            "run_options": containers.run_options(),
        }  # fmt: skip
        one.write(
            docker=docker,
            provider={"type": "local", "head_ip": HEAD, "worker_ips": [FIRST]},
        )
        yield one


def names(hosts: Hosts, number: int) -> list[str]:
    return hosts.run(number, "podman", "ps", "-a", "--format", "{{.Names}}").stdout.split()


def test_nodes_run_in_containers_with_files_from_the_laptop_and_the_head(
    laptop: Laptop,
) -> None:
    hosts = laptop.hosts
    (hosts.home(0) / "data").mkdir(exist_ok=True)
    (hosts.home(0) / "data" / "a b").write_text("1")
    laptop.write(
        file_mounts={"~/there": "~/data"},
        initialization_commands=["echo out >~/where"],
        head_setup_commands=["mkdir -p ~/made; echo of the head >~/made/it"],
        cluster_synced_files=["~/made"],
        setup_commands=["[ ! -e ~/where ] && cat ~/there/* >~/saw"],
    )
    shown = laptop.up()
    assert shown.count("started") >= 2
    before = laptop.raylets()
    assert set(before) == {1, 2}
    assert "started" not in laptop.up() and laptop.raylets() == before
    assert names(hosts, 1) == names(hosts, 2) == ["of_c"]
    assert (hosts.home(2) / "where").read_text() == "out\n"
    assert "ran on 2 hosts" in laptop.program(program_on(2))
    worker = hosts.run(2, "podman", "exec", "of_c", "sh", "-c", "cat ~/saw ~/made/it")
    assert worker.stdout == "1of the head\n", worker.stderr
    inside = laptop.nbray("exec", "echo $NBRAY_ADDRESS; ls ~/where; exit 7")
    assert (inside.returncode, inside.stdout) == (7, f"{HEAD}:6379\n")
    outside = laptop.nbray("exec", "cat ~/where", "--run-env=host")
    assert outside.stdout == "out\n", outside.stderr
    copied = laptop.nbray("rsync-up", "-A", "data/a b", "~/new place/")
    assert copied.returncode == 0, copied.stderr
    seen = hosts.run(2, "podman", "exec", "of_c", "sh", "-c", "cat ~/'new place/a b'")
    assert seen.stdout == "1", seen.stderr
    laptop.nbray("rsync-down", "~/made/", "back/")
    assert (hosts.home(0) / "back" / "it").read_text() == "of the head\n"
    left = hosts.run(1, "podman", "exec", "of_c", "ps", "-eo", "stat").stdout.split()
    assert not [one for one in left if one.startswith("Z")]


def test_a_container_of_another_cluster_is_left_alone(laptop: Laptop) -> None:
    hosts = laptop.hosts
    stranger = ["podman", "run", "-d", "--name", "of_c", "--net=host", *containers.run_options(),
                IMAGE, "sleep", "1000"]  # fmt: skip
    assert hosts.run(2, *stranger).returncode == 0
    shown = laptop.up(fails=True)
    assert "is not of cluster c" in shown and "1 of 2 failed" in shown, shown
    assert set(laptop.raylets()) == {1}
    laptop.nbray("down", "-y")
    assert names(hosts, 2) == ["of_c"] and not names(hosts, 1)
    hosts.run(2, "podman", "rm", "-f", "--time", "0", "of_c")


def test_a_command_in_a_container_is_cut_and_another_container_is_made_where_options_change(
    laptop: Laptop,
) -> None:
    hosts = laptop.hosts
    laptop.write(setup_commands=["touch ~/began; sleep 120"])
    text = "echo $$ >/tmp/pid; exec nbray up -y cluster.yaml"
    running = hosts.start(0, "sh", "-c", text)
    for number in (1, 2):
        wait_until(
            lambda number=number: not hosts.run(
                number, "podman", "exec", "of_c", "sh", "-c", "cat ~/began").returncode,
            "the set-up", 60,
        )  # fmt: skip
    hosts.run(0, "kill", "-INT", (hosts.tmp(0) / "pid").read_text().strip())
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 1 and "Interrupted" in output, output
    for number in (1, 2):
        wait_until(
            lambda number=number: "sleep 120" not in hosts.run(number, "ps", "-eo", "args").stdout,
            "the end of the command",
        )
    laptop.write(setup_commands=[])
    laptop.up()
    before = laptop.raylets()
    docker = laptop.given["docker"] | {"worker_run_options": ["--env=A=b", "--shm-size=512m"]}
    laptop.write(docker=docker)
    assert "its container is another one" in laptop.up()
    after = laptop.raylets()
    assert after[1] == before[1] and after[2] != before[2]
    size = hosts.run(2, "podman", "exec", "of_c", "sh", "-c", "df -m --output=size /dev/shm")
    assert size.stdout.split()[-1] == "512"
    hosts.power_off(2)
    hosts.boot(2)
    assert "it has no container" in laptop.up()
    assert "ran on 2 hosts" in laptop.program(program_on(2))
