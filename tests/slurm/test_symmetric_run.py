"""`nbray symmetric-run`, on this machine and in jobs of a real Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.commands import command, read_until, start_command
from support.ports import free_port
from support.slurm import Slurm

from nbray.cli.symmetric_run import symmetric_run
from nbray.common.addresses import own_address
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


def test_on_one_machine_the_command_runs_and_its_exit_code_comes_back(
    home: Path, program: str
) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = command("symmetric-run", "--address", address, *SMALL, "--num-cpus=1", "--",
                   sys.executable, program, "alone")  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "ran on with 1.0\nheard 0\n" in done.stdout
    assert not processes_of(home)


def notice_while_it_starts(process: subprocess.Popen[str], home: Path) -> None:
    """SIGUSR1 for it and for all that it has started, as Slurm sends it."""

    def starts() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        blocked = next(line.split()[1] for line in status.splitlines() if line[:7] == "SigBlk:")
        started = {other.pid for other in processes_of(home)} - {process.pid}
        return bool(int(blocked, 16) >> (signal.SIGUSR1 - 1) & 1 and started)

    wait_until(starts, "its node to start")
    for pid in {process.pid, *(other.pid for other in processes_of(home))}:
        os.kill(pid, signal.SIGUSR1)


def test_a_notice_while_the_node_starts_reaches_the_command_as_soon_as_it_listens(
    home: Path, program: str
) -> None:
    address = f"127.0.0.1:{free_port()}"
    running = start_command("symmetric-run", "--address", address, *SMALL, "--num-cpus=1", "--",
                            sys.executable, program, "alone", "wait")  # fmt: skip
    notice_while_it_starts(running, home)
    said, told = running.communicate(timeout=60)
    assert running.returncode == 7, told
    assert "heard 1\n" in said
    assert "SIGUSR1: the job is about to end; the command does not listen to it so far." in told
    assert "SIGUSR1: the job is about to end; it was passed on to the command." in told
    assert not processes_of(home)


def test_a_notice_while_a_node_starts_is_heard_by_the_command_that_stays_with_it(
    home: Path,
) -> None:
    running = start_command("start", "--head", "--block", *SMALL)
    notice_while_it_starts(running, home)
    read_until(running, "SIGUSR1: the job is about to end")
    running.terminate()
    assert running.wait(30) == 0
    assert not processes_of(home)


def test_an_end_while_it_waits_for_others_leaves_nothing(home: Path) -> None:
    address = f"{own_address('192.0.2.1:9')}:{free_port()}"
    waiting = start_command(
        "symmetric-run", "--address", address, "--min-nodes=2", *SMALL, "--", "true"
    )
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == "1 of 2 nodes are there.\n"
    waiting.terminate()
    said = waiting.communicate(timeout=30)[1]
    assert said == "Error: SIGTERM, while waiting for the other nodes: the node here was ended.\n"
    assert waiting.returncode == 128 + signal.SIGTERM
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
@pytest.mark.timeout(300)
def test_two_hosts_of_an_allocation_are_one_cluster(slurm: Slurm, home: Path, program: str) -> None:
    done = slurm.run(*SRUN, *RUN, "--", "python", program, check=False)
    assert "ran on sn1 sn2 with 4.0" in done.stdout, done.stderr
    assert done.returncode == 7
    wait_until(lambda: not processes_of(home), "the end of both nodes")
    assert not list((Path.home() / ".nbray" / "steps").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_allocation_may_speak_tls_with_certificates_from_the_shared_home(
    slurm: Slurm, home: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Path.home() / ".nbray" / "tls"
    made = command("tls", "init")
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv("NBRAY_USE_TLS", "1")
    names = {"SERVER_CERT": "node.crt", "SERVER_KEY": "node.key", "CA_CERT": "ca.crt"}
    for name, file in names.items():
        monkeypatch.setenv(f"NBRAY_TLS_{name}", str(certificates / file))
    done = slurm.run(*SRUN, *RUN, "--", "python", program, check=False)
    assert "ran on sn1 sn2 with 4.0" in done.stdout, done.stderr
    assert done.returncode == 7
    monkeypatch.setenv("NBRAY_TLS_SERVER_CERT", str(certificates / "ca.crt"))
    done = slurm.run(*SRUN, *RUN, "--", "python", program, check=False)
    assert done.returncode and "do not belong together" in done.stderr, done.stderr
    assert "did not start: its task says why" in done.stderr, "the other one does not wait"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_steps_of_one_user_at_once_do_not_meet(slurm: Slurm, home: Path, program: str) -> None:
    words = ("srun", "-N2", "--ntasks-per-node=1", "-c1", "--overcommit", *RUN, "--", "python",
             program)  # fmt: skip
    both = [slurm.start(*words) for _ in range(2)]
    outputs = [one.communicate(timeout=200)[0] for one in both]
    assert [one.returncode for one in both] == [7, 7], outputs
    assert all("with 2.0" in output for output in outputs), outputs


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_users_on_the_same_hosts_at_once_have_a_cluster_each(
    slurm: Slurm, home: Path, program: str
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nbuser"))
    shutil.copy(program, folder / "program.py")
    (folder / "tmp").mkdir(mode=0o700)
    for path in (folder, folder / "tmp"):
        shutil.chown(path, "games", "games")
    as_other = ("setpriv", "--reuid=games", "--regid=games", "--clear-groups")
    srun = ("srun", "-N2", "--ntasks-per-node=1", "-c1", "-D", "/tmp")
    theirs_too = {
        "HOME": str(folder), "NBRAY_TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }  # fmt: skip

    def runs(python: str) -> bool:
        words = (*as_other, *srun, python, "-c", "import nbray.cli")
        return not slurm.run(*words, check=False, **theirs_too).returncode

    python = next(filter(runs, (sys.executable, "/usr/bin/python3")), None)
    try:
        if python is None:
            pytest.skip("there is no Python that another user may run")
        theirs = slurm.start(
            *as_other, *srun, python, "-P", "-m", "nbray.cli", *RUN[1:], "--", python,
            str(folder / "program.py"), **theirs_too,
        )  # fmt: skip
        ours = slurm.start(*srun, *RUN, "--", "python", program)
        outputs = [one.communicate(timeout=200)[0] for one in (theirs, ours)]
        assert [theirs.returncode, ours.returncode] == [7, 7], outputs
        assert all("with 2.0" in output for output in outputs), outputs
        assert (folder / ".nbray" / "auth_token").stat().st_uid != os.getuid()
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_tasks_on_a_host_are_two_nodes(slurm: Slurm, home: Path, program: str) -> None:
    done = slurm.run("srun", "-N1", "-n2", "-c1", *RUN, "--", "python", program, "alone",
                     check=False)  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "with 2.0" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_notice_before_the_end_reaches_the_command_and_no_node_ends_by_it(
    slurm: Slurm, home: Path, program: str
) -> None:
    running = slurm.start(*SRUN, "--signal=USR1@60", "--time=10", *RUN, "--", "python", program,
                          "wait")  # fmt: skip
    read_until(running, "ran on sn1 sn2")
    job = slurm.jobs()[0].split()[0]
    slurm.run("scancel", "--signal=USR1", job)
    rest = running.communicate(timeout=100)[0]
    assert "SIGUSR1: the job is about to end; it was passed on to the command." in rest
    assert "heard " in rest  # twice where Slurm signals each process by itself
    assert running.returncode == 7


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cancelled_job_leaves_nothing(slurm: Slurm, home: Path, program: str) -> None:
    running = slurm.start(*SRUN, *RUN, "--", "python", program, "wait")
    read_until(running, "ran on sn1 sn2")
    slurm.run("scancel", slurm.jobs()[0].split()[0])
    running.communicate(timeout=100)
    wait_until(lambda: not processes_of(home), "the end of both nodes")
    wait_until(lambda: not slurm.jobs(), "the end of the job")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_does_not_come_is_named(slurm: Slurm, home: Path) -> None:
    done = slurm.run(*SRUN, "bash", "-c", '[ "$SLURM_PROCID" = 1 ] || exec "$@"', "bash", *RUN,
                     "--wait=3", "--", "true", check=False)  # fmt: skip
    assert done.returncode
    assert "After 3 s 1 of 2 nodes are there" in done.stderr
    assert "Slurm gave sn" in done.stderr
