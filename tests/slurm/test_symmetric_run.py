"""`nbray symmetric-run`, on this machine and in jobs of a real Slurm."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.commands import command
from support.slurm import Slurm

from nbray.cli.symmetric_run import symmetric_run
from nbray.testing import processes_of, wait_until

SMALL = ("--include-dashboard=false", "--object-store-memory=100MB")
RUN = ("nbray", "symmetric-run", *SMALL)
SRUN = ("srun", "-N2", "--ntasks-per-node=1", "-c2")

PROGRAM = """
import os, signal, sys, time, nbray
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
nbray.init()
node = nbray.remote(lambda: (time.sleep(0.02), os.environ.get("SLURMD_NODENAME"))[1])
found = set()
while len(found) < 2 and "alone" not in sys.argv:
    found |= set(nbray.get([node.remote() for _ in range(20)]))
print("ran on", *sorted(found), "with", nbray.cluster_resources()["CPU"], flush=True)
while "wait" in sys.argv and not heard:
    time.sleep(0.05)
nbray.get(node.remote())
print("heard", len(heard), flush=True)
sys.exit(7)
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_on_one_machine_the_command_runs_and_its_exit_code_comes_back(
    home: Path, program: str
) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = command("symmetric-run", "--address", address, *SMALL, "--num-cpus=1", "--",
                   sys.executable, program, "alone")  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "ran on with 1.0\nheard 0\n" in done.stdout
    assert not processes_of(home)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Give --address HOST:PORT, or run it by srun"),
        (("--address", "127.0.0.1:0"), "all machines must know the port"),
        (("--address", "127.0.0.1:4000", "--min-nodes", "2"), "other machines cannot reach"),
        (("--address", "nowhere"), "'nowhere' is not HOST:PORT"),
        (("--interface", "none0"), "no network interface 'none0'"),
        (("--head",), "No such option '--head'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(symmetric_run, [*words, "--", "true"])
    assert done.exit_code
    assert said in done.output


@pytest.mark.slow
def test_two_hosts_of_an_allocation_are_one_cluster(slurm: Slurm, home: Path, program: str) -> None:
    done = slurm.run(*SRUN, *RUN, "--", "python", program, check=False)
    assert "ran on sn1 sn2 with 4.0" in done.stdout, done.stderr
    assert done.returncode == 7
    wait_until(lambda: not processes_of(home), "the end of both nodes")
    assert not list((Path.home() / ".nbray" / "steps").iterdir())


@pytest.mark.slow
def test_two_steps_of_one_user_at_once_do_not_meet(slurm: Slurm, home: Path, program: str) -> None:
    words = ("srun", "-N2", "--ntasks-per-node=1", "-c1", "--overcommit", *RUN, "--", "python",
             program)  # fmt: skip
    both = [slurm.start(*words) for _ in range(2)]
    outputs = [one.communicate(timeout=100)[0] for one in both]
    assert [one.returncode for one in both] == [7, 7], outputs
    assert all("with 2.0" in output for output in outputs), outputs


@pytest.mark.slow
def test_a_notice_before_the_end_reaches_the_command_and_no_node_ends_by_it(
    slurm: Slurm, home: Path, program: str
) -> None:
    running = slurm.start(*SRUN, "--signal=USR1@60", "--time=2", *RUN, "--", "python", program,
                          "wait")  # fmt: skip
    assert running.stdout is not None
    lines = iter(running.stdout.readline, "")
    assert any("ran on sn1 sn2" in line for line in lines)
    job = slurm.jobs()[0].split()[0]
    slurm.run("scancel", "--signal=USR1", job)
    rest = running.communicate(timeout=60)[0]
    assert "SIGUSR1: the job is about to end; it was passed on to the command." in rest
    assert "heard " in rest  # twice where Slurm signals each process by itself
    assert running.returncode == 7


@pytest.mark.slow
def test_a_cancelled_job_leaves_nothing(slurm: Slurm, home: Path, program: str) -> None:
    running = slurm.start(*SRUN, *RUN, "--", "python", program, "wait")
    assert running.stdout is not None
    assert any("ran on sn1 sn2" in line for line in iter(running.stdout.readline, ""))
    slurm.run("scancel", slurm.jobs()[0].split()[0])
    running.communicate(timeout=60)
    wait_until(lambda: not processes_of(home), "the end of both nodes")
    wait_until(lambda: not slurm.jobs(), "the end of the job")


@pytest.mark.slow
def test_a_node_that_does_not_come_is_named(slurm: Slurm, home: Path) -> None:
    done = slurm.run(*SRUN, "bash", "-c", '[ "$SLURM_PROCID" = 1 ] || exec "$@"', "bash", *RUN,
                     "--wait=3", "--", "true", check=False)  # fmt: skip
    assert done.returncode
    assert "After 3 s 1 of 2 nodes are there" in done.stderr
    assert "Slurm gave sn" in done.stderr
