"""Jobs, as a user submits them in a shell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import command

from nbray.testing import own_sessions

_DRIVER = """
import os, sys, nbray
nbray.init(log_to_driver=False)
print("in", sorted(os.listdir(".")), sys.argv[1:], os.environ["A"])
see = nbray.remote(lambda: (os.environ["A"], os.path.exists("data.txt")))
print("task", nbray.get(see.remote()))
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster that the command started, and a folder to send."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, own_sessions():
        patch.setenv("HOME", str(folder))
        started = command("start", "--head", "--port=0", "--num-cpus=2", "--include-dashboard=true",
                          "--dashboard-port=0")  # fmt: skip
        assert started.returncode == 0, started.stderr
        work = folder / "work"
        work.mkdir()
        (work / "drive.py").write_text(_DRIVER)
        (work / "data.txt").write_text("v")
        yield work
        assert command("stop").returncode == 0


def test_a_job_is_submitted_followed_listed_and_deleted(head: Path) -> None:
    done = command(
        "job", "submit", "--working-dir", str(head), "--submission-id", "one",
        "--runtime-env-json", '{"env_vars": {"A": "b"}}', "--metadata-json", '{"k": "v"}',
        "--", "python", "drive.py", "a", "b c",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Job 'one' submitted successfully" in done.stderr
    assert "in ['data.txt', 'drive.py'] ['a', 'b c'] b" in done.stdout
    assert "task ('b', True)" in done.stdout, "its tasks have its environment"
    assert "Job 'one' succeeded" in done.stdout
    again = command("job", "submit", "--submission-id", "one", "--no-wait", "--", "true")
    assert again.returncode == 1 and "already exists" in again.stderr
    assert done.stdout.startswith(command("job", "logs", "one").stdout)
    (row,) = json.loads(command("job", "list", "--format", "json").stdout)
    assert (row["submission_id"], row["status"], row["metadata"]) == (
        "one",
        "SUCCEEDED",
        {"k": "v"},
    )
    assert (
        row["job_id"] and row["driver_info"]["id"] == row["job_id"] and row["driver_exit_code"] == 0
    )
    assert command("job", "delete", "one").stdout == "Job 'one' deleted successfully\n"
    gone = command("job", "status", "one")
    assert gone.returncode == 1 and "Job one does not exist" in gone.stderr


def test_a_failing_job_ends_the_command_with_one_and_says_its_last_lines(head: Path) -> None:
    failed = command(
        "job", "submit", "--submission-id", "bad", "--", "sh", "-c", "echo out; exit 7"
    )
    assert failed.returncode == 1 and "Job 'bad' failed" in failed.stdout
    assert "exit code 7" in failed.stderr and failed.stderr.endswith("out\n\n")


def test_a_job_that_waits_says_why_and_is_stopped(head: Path) -> None:
    command("job", "submit", "--no-wait", "--submission-id", "w", "--entrypoint-num-cpus", "64",
            "--", "true")  # fmt: skip
    waits = command("job", "status", "w").stdout
    assert "Status for job 'w': PENDING" in waits
    assert re.search(r"lacks \{'CPU': 62", waits) or "waiting for resources" in waits
    assert "Job 'w' was stopped" in command("job", "stop", "w").stdout
    assert "had ended already" in command("job", "stop", "w").stdout


def test_a_running_job_is_stopped_with_all_that_it_started(head: Path) -> None:
    mark = head / "marks"
    script = f"setsid sleep 300 & echo $! > {mark}; echo up; exec sleep 300"
    command("job", "submit", "--no-wait", "--submission-id", "r", "--", "sh", "-c", script)
    deadline = 0
    while "up" not in command("job", "logs", "r").stdout:
        deadline += 1
        assert deadline < 60
    assert "Job 'r' was stopped" in command("job", "stop", "r").stdout
    assert not Path(f"/proc/{mark.read_text().strip()}").exists(), "a daemon of it is left"
