"""Clusters out of one file where it is not plain: sessions that go on, many machines, odd names,
two laptops, one home for all, a machine that stands still.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.everywhere import program_on
from support.laptop import FIRST, HEAD, SECOND, Laptop, laptop_of
from support.ssh_hosts import Hosts, ssh_hosts, why_not

from nbray.testing import wait_until

_REASON = why_not()
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


def attached(laptop: Laptop, typed: str, *args: str) -> str:
    """What somebody sees who attaches, and types when a prompt is there."""
    words = " ".join(["nbray", "attach", "cluster.yaml", *args])
    command = laptop.hosts.command(0, "env", "TERM=xterm", "script", "-qec", words, "/dev/null")
    screen = b""
    with subprocess.Popen(
        command, env=laptop.hosts.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        while b":~# " not in screen:
            part = os.read(process.stdout.fileno(), 65536)
            assert part, screen
            screen += part
        process.stdin.write(f"{typed}\nexit\n".encode())
        process.stdin.flush()
        while part := os.read(process.stdout.fileno(), 65536):
            screen += part
    return screen.decode(errors="replace")


@pytest.mark.parametrize("how", ["--tmux", "--screen"])
def test_a_command_goes_on_in_a_session_and_a_second_one_beside_it(
    laptop: Laptop, how: str
) -> None:
    laptop.write(provider=laptop.given["provider"] | {"worker_ips": []})
    laptop.up()
    seen = [laptop.hosts.tmp(1) / f"{how[2:]}-{number}" for number in (1, 2)]
    for path in seen:
        command = f"sleep 0.3; echo $NBRAY_ADDRESS 'it'\"'\"'s' >/tmp/{path.name}"
        done = laptop.nbray("exec", command, how)
        assert done.returncode == 0 and f"nbray attach cluster.yaml {how}" in done.stderr
    wait_until(lambda: all(path.exists() and path.read_text() for path in seen), "both to run")
    assert [path.read_text() for path in seen] == [f"{HEAD}:6379 it's\n"] * 2
    if how == "--tmux":  # a screen asks its terminal more than a test can answer
        assert f"it-is-{HEAD}:6379" in attached(laptop, "echo it-is-$NBRAY_ADDRESS", how, "-N")
    refused = laptop.nbray("exec", "true", how, "--stop")
    assert refused.returncode == 2 and "for which nobody waits" in refused.stderr
    end = "tmux kill-server" if how == "--tmux" else "pkill -x SCREEN"
    laptop.hosts.run(1, "sh", "-c", end)


def test_one_command_brings_up_runs_and_ends_and_its_output_is_the_command_s_alone(
    laptop: Laptop,
) -> None:
    laptop.write(provider=laptop.given["provider"] | {"worker_ips": []})
    done = laptop.nbray("exec", "echo $NBRAY_ADDRESS; exit 3", "--start", "--stop")
    assert done.returncode == 3 and done.stdout == f"{HEAD}:6379\n", done.stderr
    assert not laptop.raylets()
    (laptop.hosts.home(0) / "-a b's.py").write_text("import sys; print(sys.argv[1:])")
    ran = laptop.nbray("submit", "--start", "./-a b's.py", "--", "--x", "it's", "$HOME")
    assert ran.stdout == "['--x', \"it's\", '$HOME']\n", ran.stderr
    assert f"it-is-{HEAD}:6379" in attached(laptop, "echo it-is-$NBRAY_ADDRESS")


def test_down_may_leave_the_head_or_the_least_of_workers(laptop: Laptop) -> None:
    laptop.up()
    laptop.nbray("down", "-y", "--keep-min-workers")  # which are all, as the file says no number
    assert set(laptop.raylets()) == {1, 2, 3}
    laptop.write(min_workers=1)
    laptop.nbray("down", "-y", "--keep-min-workers")
    assert set(laptop.raylets()) == {1, 2}
    laptop.write(min_workers=0)
    laptop.nbray("down", "-y", "--workers-only")
    assert set(laptop.raylets()) == {1}
    laptop.nbray("down", "-y", "--keep-min-workers")
    assert set(laptop.raylets()) == {1}
    laptop.write(min_workers=2)
    laptop.up()
    assert "ran on 3 hosts" in laptop.program(program_on(3))


ODD = "a 'b\" $HOME:ü\nc"


def test_odd_names_and_files_of_the_head_reach_the_workers(laptop: Laptop) -> None:
    folder = laptop.hosts.home(0) / ODD
    folder.mkdir(exist_ok=True)
    (folder / "-x y:z").write_text("1")
    (laptop.hosts.home(0) / "-f:1").write_text("2")
    quotes = "'" * 600
    laptop.write(
        cluster_name="a.b_c-9",
        file_mounts={f"~/to {ODD}": f"~/{ODD}", "~/-f:2": "-f:1"},
        cluster_synced_files=["~/from head", "~/made: here"],
        head_setup_commands=[
            "mkdir -p ~/'from head'; echo 3 >~/'from head/it'\"'\"'s'; echo 4 >~/'made: here'"
        ],
        setup_commands=[f"printf %s {quotes} >/tmp/quotes; printf '%s' \"{quotes}\" >/tmp/quotes"],
    )
    laptop.up()
    for number in (1, 2, 3):
        home = laptop.hosts.home(number)
        assert (home / f"to {ODD}" / "-x y:z").read_text() == "1"
        assert (home / "-f:2").read_text() == "2"
        assert (home / "from head" / "it's").read_text() == "3\n"
        assert (home / "made: here").read_text() == "4\n"
        assert (laptop.hosts.tmp(number) / "quotes").read_text() == quotes
    before = laptop.raylets()
    assert "started" not in laptop.up()
    assert laptop.raylets() == before
    assert "ran on 3 hosts" in laptop.program(program_on(3))


def test_of_two_laptops_one_is_told_who_the_other_is(laptop: Laptop) -> None:
    hosts = laptop.hosts
    laptop.write(
        provider=laptop.given["provider"] | {"worker_ips": [FIRST]},
        setup_commands=["touch /tmp/began; while [ ! -e /tmp/go ]; do sleep 0.1; done"],
    )
    for name in ("cluster.yaml", ".ssh/id_ed25519", ".ssh/known_hosts"):
        other = hosts.home(3) / name
        other.write_text((hosts.home(0) / name).read_text())
        other.chmod(0o600)
    began = hosts.tmp(1) / "began"
    began.unlink(missing_ok=True)
    first = hosts.start(0, "nbray", "up", "-y", "cluster.yaml")
    wait_until(began.exists, "the first one to be at work", 60)
    refused = hosts.run(3, "nbray", "up", "-y", "cluster.yaml")
    name = hosts.run(0, "uname", "-n").stdout.strip()
    assert "is being changed by `nbray up`, pid " in refused.stderr, refused.stderr
    assert f" on {name}, since" in refused.stderr
    for number in (1, 2):
        (hosts.tmp(number) / "go").touch()
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    before = laptop.raylets()
    again = hosts.run(3, "nbray", "up", "-y", "cluster.yaml")
    assert again.returncode == 0 and "started" not in again.stdout
    assert laptop.raylets() == before
    left = "/tmp/nbray-ssh-0 ~/.nbray ~/.ssh/id_ed25519 ~/.ssh/known_hosts ~/cluster.yaml"
    hosts.run(3, "sh", "-c", f"pkill -x ssh; rm -r {left}")


def stop_or_go_on(hosts: Hosts, number: int, what: signal.Signals) -> None:
    """All processes of a host at once, but the first, which makes none new."""
    first = (hosts.base / f"{hosts.prefix}{number}" / "init.pid").read_text().strip()
    pids = Path(f"/proc/{first}")
    space = os.readlink(pids / "ns" / "pid")
    for one in Path("/proc").iterdir():
        try:
            if one.name.isdigit() and one != pids and os.readlink(one / "ns" / "pid") == space:
                os.kill(int(one.name), what)
        except (OSError, ProcessLookupError):
            continue


def test_a_host_that_stands_still_is_waited_for_a_while_and_then_told(laptop: Laptop) -> None:
    hosts = laptop.hosts
    command = "touch /tmp/began; while [ ! -e /tmp/go ]; do sleep 0.1; done"
    for still_for_ever in (False, True):
        for number in (1, 2, 3):
            for name in ("began", "go"):
                (hosts.tmp(number) / name).unlink(missing_ok=True)
        laptop.write(worker_setup_commands=[command + f"; : {still_for_ever}"])
        running = hosts.start(0, "nbray", "up", "-y", "cluster.yaml")
        began = [hosts.tmp(number) / "began" for number in (2, 3)]
        wait_until(lambda began=began: all(path.exists() for path in began), "the set-up", 60)
        stop_or_go_on(hosts, 3, signal.SIGSTOP)
        for number in (2, 3):
            (hosts.tmp(number) / "go").touch()
        if not still_for_ever:
            wait_until(lambda: 2 in laptop.raylets(), "the other worker", 60)
            stop_or_go_on(hosts, 3, signal.SIGCONT)
        output, _ = running.communicate(timeout=120)
        assert bool(running.returncode) == still_for_ever, output
        if still_for_ever:
            assert "1 of 3 failed" in output and SECOND in output, output
            assert "ssh does not reach it" in output or "does not answer" in output, output
            stop_or_go_on(hosts, 3, signal.SIGCONT)
            wait_until(lambda: hosts.answers(3), "the host to answer")
    laptop.up()
    assert "ran on 3 hosts" in laptop.program(program_on(3))


MANY = 60


def test_many_machines_are_asked_through_an_sshd_that_takes_few_at_once(laptop: Laptop) -> None:
    """All of them are addresses of one host; the laptop may open few files."""
    hosts = laptop.hosts
    addresses = [f"10.77.7.{number}" for number in range(100, 100 + MANY)]
    adding = "; ".join(f"ip addr add {address}/24 dev eth0" for address in addresses)
    sshd = "sed '/^ListenAddress/d' /run/sshd_config >/run/many && "
    sshd += "/usr/sbin/sshd -f /run/many -p 2200 -o MaxStartups=4:60:10 -o PidFile=/run/many.pid"
    made = hosts.run(1, "sh", "-c", f"{adding}; {sshd}")
    assert made.returncode == 0, made.stderr
    laptop.write(
        provider={"type": "local", "head_ip": HEAD, "worker_ips": addresses},
        auth=laptop.given["auth"] | {"ssh_port": 2200},
    )
    try:
        text = "ulimit -n 256; exec nbray up --dry-run cluster.yaml"
        shown = hosts.run(0, "bash", "-c", text, timeout=200)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.count("start its node (it was not set up") == MANY + 1, shown.stdout
    finally:
        laptop.write(
            provider={"type": "local", "head_ip": HEAD, "worker_ips": []},
            auth=laptop.given["auth"] | {"ssh_port": 22},
        )
        ends = "; ".join(f"ip addr del {address}/24 dev eth0" for address in addresses)
        hosts.run(1, "sh", "-c", f"kill $(cat /run/many.pid); {ends}")


def test_hosts_with_one_home_and_the_laptop_s_too() -> None:
    with ssh_hosts(3, shared_home=True) as hosts, laptop_of(hosts) as laptop:
        laptop.write(
            provider={"type": "local", "head_ip": HEAD, "worker_ips": [FIRST]},
            file_mounts={"~/there": "~/cluster.yaml"},
        )
        laptop.up()
        before = laptop.raylets()
        assert set(before) == {1, 2}
        assert "started" not in laptop.up()
        assert laptop.raylets() == before
        assert "ran on 2 hosts" in laptop.program(program_on(2))
