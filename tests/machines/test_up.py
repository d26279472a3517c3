"""Clusters of several hosts out of one file, brought up from a laptop by real ssh."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.everywhere import program_on, tasks_on
from support.laptop import FIRST, HEAD, SECOND, SMALL, Laptop
from support.ssh_hosts import why_not

from nbray.testing import wait_until
from nbray.wire.certificates import Authority

_REASON = why_not()
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


def test_one_file_is_a_cluster_and_a_second_up_changes_nothing(laptop: Laptop) -> None:
    would = laptop.up("--dry-run")
    assert would.count("start its node") == 3 and not laptop.raylets()
    shown = laptop.up()
    assert shown.count("started") >= 3
    before = laptop.raylets()
    assert set(before) == {1, 2, 3}
    assert "ran on 3 hosts" in laptop.program(program_on(3))
    token = next(laptop.hosts.home(1).glob(".nbray/clusters/c/*/token"))
    assert token.stat().st_mode & 0o777 == 0o600
    for number in range(4):
        assert (
            token.read_text().strip() not in laptop.hosts.run(number, "ps", "-ewwo", "args").stdout
        )
        assert number == 0 or not list(laptop.hosts.home(number).glob(".ssh/id_*"))
    assert "started" not in laptop.up()
    assert laptop.raylets() == before
    failed = laptop.nbray("exec", "echo $NBRAY_ADDRESS; exit 7")
    assert failed.returncode == 7 and failed.stdout == f"{HEAD}:6379\n"
    assert laptop.nbray("get-worker-ips").stdout.split() == [FIRST, SECOND]
    assert laptop.nbray("get-head-ip").stdout.split() == [HEAD]


def test_a_cluster_with_tls_hands_each_host_a_certificate_of_its_own(
    laptop: Laptop, tmp_path: Path
) -> None:
    folder = laptop.hosts.home(0) / "tls"
    authority = Authority.of(folder)
    laptop.write(tls="~/tls")
    shown = laptop.up()
    assert shown.count("started") >= 3
    assert "ran on 3 hosts" in laptop.program(program_on(3))
    certificates = set()
    for number in (1, 2, 3):
        (own,) = laptop.hosts.home(number).glob(".nbray/clusters/c/*/tls.pem")
        assert own.stat().st_mode & 0o777 == 0o600
        certificates.add(own.read_bytes())
        text = own.read_bytes() + own.with_name("tls-ca.pem").read_bytes()
        assert authority.pair.key not in text, "the authority's key stays where it is"
    assert len(certificates) == 3
    before = laptop.raylets()
    assert "started" not in laptop.up()
    assert laptop.raylets() == before
    laptop.write(tls=True)
    assert laptop.up("-y").count("started") >= 3
    assert "ran on 3 hosts" in laptop.program(program_on(3))


def test_a_set_up_command_that_fails_is_shown_and_the_others_go_on(laptop: Laptop) -> None:
    command = f"case $SSH_CONNECTION in *{SECOND}*) echo no disk of that name >&2; exit 4;; esac"
    laptop.write(worker_setup_commands=["echo fine", command])
    shown = laptop.up(fails=True)
    assert "no disk of that name" in shown and "exit code 4" in shown and "1 of 3 failed" in shown
    before = laptop.raylets()
    assert set(before) == {1, 2}
    laptop.write(worker_setup_commands=[])
    laptop.up("--no-restart")
    assert laptop.raylets().items() >= before.items() and 3 in laptop.raylets()


def test_what_differs_is_changed_and_nothing_else(laptop: Laptop, tmp_path: Path) -> None:
    data = laptop.hosts.home(0) / "data"
    data.mkdir(exist_ok=True)
    (data / "a name.txt").write_text("first")
    laptop.write(file_mounts={"~/there": "~/data"}, worker_setup_commands=["cat ~/there/*"])
    laptop.up()
    before = laptop.raylets()
    assert (laptop.hosts.home(3) / "there" / "a name.txt").read_text() == "first"
    start = [f"ray start --address=$RAY_HEAD_IP:6379 {SMALL} --resources='{{\"x\": 1}}'"]
    laptop.write(worker_start_ray_commands=start)
    laptop.up()
    after = laptop.raylets()
    assert after[1] == before[1] and after[2] != before[2] and after[3] != before[3]
    laptop.write(provider=laptop.given["provider"] | {"worker_ips": [FIRST]})
    assert "the file names it no more" in laptop.up()
    assert laptop.raylets() == {1: after[1], 2: after[2]}
    (data / "a name.txt").write_text("second")
    laptop.up("--no-restart")
    assert (laptop.hosts.home(2) / "there" / "a name.txt").read_text() == "second"
    assert laptop.raylets() == {1: after[1], 2: after[2]}
    laptop.nbray("rsync-down", "~/there/", "/root/back/")
    assert (laptop.hosts.home(0) / "back" / "a name.txt").read_text() == "second"


def test_hosts_that_cannot_be_entered_are_told_with_the_reason(laptop: Laptop) -> None:
    keys = laptop.hosts.home(3) / ".ssh" / "authorized_keys"
    allowed = keys.read_text()
    known = laptop.hosts.home(0) / ".ssh" / "known_hosts"
    right = known.read_text()
    others = [line for line in right.splitlines() if not line.startswith(FIRST)]
    another = others[0].split()[-1]
    provider = laptop.given["provider"]
    try:
        keys.write_text("")
        known.write_text("\n".join([*others, f"{FIRST} ssh-ed25519 {another}"]) + "\n")
        laptop.write(provider=provider | {"worker_ips": [FIRST, SECOND, "10.77.7.99"]})
        shown = " ".join(laptop.up(fails=True).split())
        assert "3 of 4 failed" in shown
        assert f"{FIRST}: asking what it has: its host key has changed" in shown
        assert f"{SECOND}: asking what it has: it lets root not in" in shown
        assert "10.77.7.99: asking what it has: " in shown
        assert set(laptop.raylets()) == {1}
    finally:
        keys.write_text(allowed)
        known.write_text(right)
        laptop.write(provider=provider)
    laptop.up()
    assert set(laptop.raylets()) == {1, 2, 3}


def test_a_worker_that_lost_its_power_is_started_by_up(laptop: Laptop) -> None:
    laptop.up()
    before = laptop.raylets()
    laptop.hosts.power_off(3)
    laptop.hosts.boot(3)
    assert "its node has ended" in laptop.up()
    after = laptop.raylets()
    assert (after[1], after[2]) == (before[1], before[2]) and 3 in after
    assert "ran on 3 hosts" in laptop.program(program_on(3))


KEEP = """
import nbray
nbray.init(namespace="n")
@nbray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
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


def test_a_head_that_lost_its_power_comes_back_with_its_tables(laptop: Laptop) -> None:
    laptop.up()
    before = laptop.raylets()
    laptop.program(KEEP)
    laptop.hosts.power_off(1)
    laptop.hosts.boot(1)
    shown = laptop.up()
    assert "its node has crashed, and its session is there" in " ".join(shown.split())
    after = laptop.raylets()
    assert (after[2], after[3]) == (before[2], before[3])
    assert "found kept" in laptop.program(FIND)


def test_an_interrupt_in_the_middle_is_mended_by_up_and_by_down(laptop: Laptop) -> None:
    laptop.write(setup_commands=["touch /tmp/began; sleep 120; touch /tmp/ended"])
    interrupt(laptop)
    wait_until(
        lambda: "sleep 120" not in laptop.hosts.run(2, "ps", "-ewwo", "args").stdout,
        "the end of the command on the host",
    )
    assert not any((laptop.hosts.tmp(number) / "ended").exists() for number in (1, 2, 3))
    laptop.write(setup_commands=["touch /tmp/began; sleep 0.1"])
    laptop.up()
    assert set(laptop.raylets()) == {1, 2, 3}
    laptop.write(setup_commands=["touch /tmp/began; sleep 120"])
    interrupt(laptop)  # and `down` at the end of the test


def interrupt(laptop: Laptop) -> None:
    hosts = laptop.hosts
    began = [hosts.tmp(number) / "began" for number in (1, 2, 3)]
    for path in began:
        path.unlink(missing_ok=True)
    text = "echo $$ >/tmp/pid; exec nbray up -y cluster.yaml"
    running = hosts.start(0, "sh", "-c", text)
    wait_until(lambda: all(path.exists() for path in began), "the set-up on all hosts", 60)
    hosts.run(0, "kill", "-INT", (hosts.tmp(0) / "pid").read_text().strip())
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 1 and "Interrupted" in output, output
    assert "Traceback" not in output


def test_of_two_ups_at_once_one_is_refused_by_name(laptop: Laptop) -> None:
    laptop.write(setup_commands=["touch /tmp/began; while [ ! -e /tmp/go ]; do sleep 0.1; done"])
    began = laptop.hosts.tmp(1) / "began"
    began.unlink(missing_ok=True)
    first = laptop.hosts.start(0, "nbray", "up", "-y", "cluster.yaml")
    wait_until(began.exists, "the first one to be at work", 60)
    refused = laptop.up(fails=True)
    assert re.search(r"Cluster c is being changed by `nbray up`, pid \d+ on ", refused), refused
    for number in (1, 2, 3):
        (laptop.hosts.tmp(number) / "go").touch()
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output


OPEN = """
import sys, urllib.request
from http.cookiejar import CookieJar
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
print(browser.open(sys.argv[1], timeout=60).status)
"""


def test_the_dashboard_is_reached_through_a_port_of_the_laptop(laptop: Laptop) -> None:
    start = [one.replace("dashboard=0", "dashboard=1") for one in laptop.given[
        "head_start_ray_commands"]]  # fmt: skip
    laptop.write(
        head_start_ray_commands=start, provider=laptop.given["provider"] | {"worker_ips": []}
    )
    laptop.up()
    text = "echo $$ >/tmp/pid; exec nbray dashboard cluster.yaml -p 9000"
    leading = laptop.hosts.start(0, "sh", "-c", text)
    assert leading.stdout is not None
    link = leading.stdout.readline().strip()
    assert link.startswith("http://localhost:9000/login?key="), link
    opened = laptop.hosts.run(0, "python", "-c", OPEN, link, timeout=90)
    assert opened.stdout == "200\n", opened.stderr
    laptop.hosts.run(0, "kill", "-INT", (laptop.hosts.tmp(0) / "pid").read_text().strip())
    leading.communicate(timeout=60)
    assert leading.returncode == 0


NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "nbray")
shell.run_line_magic("nbray", "up cluster.yaml")
shell.run_line_magic("nbray", "attach cluster.yaml")
import nbray
"""


def test_a_notebook_brings_a_cluster_up_and_joins_it(laptop: Laptop) -> None:
    program = NOTEBOOK + tasks_on(3, "hosts") + 'shell.run_line_magic("nbray", "stop")\n'
    shown = laptop.hosts.run(0, "python", "-c", program, timeout=200)
    assert shown.returncode == 0, shown.stderr
    assert f"{HEAD}: started" in shown.stdout and "4 nodes" in shown.stdout
    assert "ran on 3 hosts" in shown.stdout
    wait_until(lambda: not laptop.hosts.processes(0), "the end of the laptop's own node")


def test_a_jump_host_and_another_port(laptop: Laptop) -> None:
    config = laptop.hosts.home(0) / "ssh_config"
    config.write_text(f"Host {FIRST}\n  ProxyJump {HEAD}\n")
    auth = laptop.given["auth"] | {"ssh_config": "~/ssh_config", "ssh_port": 2222}
    seen = "echo $SSH_CONNECTION >/tmp/connection"
    laptop.write(auth=auth, setup_commands=[seen])
    laptop.up()
    client, _, _, port = (laptop.hosts.tmp(2) / "connection").read_text().split()
    assert client == HEAD and port == "2222"
    assert "ran on 3 hosts" in laptop.program(program_on(3))
