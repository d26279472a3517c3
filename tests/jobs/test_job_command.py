"""Jobs, as a user submits them in a shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import command
from support.processes import have_ended

from nbray.job_submission import JobSubmissionClient
from nbray.testing import own_sessions, wait_until

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
    submitted = "Job 'one' submitted successfully\n"
    assert done.stdout.startswith(submitted), "scripts look for the id there"
    assert "in ['data.txt', 'drive.py'] ['a', 'b c'] b" in done.stdout
    assert "task ('b', True)" in done.stdout, "its tasks have its environment"
    assert "Job 'one' succeeded" in done.stdout
    client = JobSubmissionClient()
    with pytest.raises(RuntimeError, match="already exists"):
        client.submit_job(entrypoint="true", submission_id="one")
    assert done.stdout.startswith(submitted + client.get_job_logs("one"))
    (row,) = client.list_jobs()
    assert (row.submission_id, row.status, row.driver_exit_code) == ("one", "SUCCEEDED", 0)
    assert row.metadata == {"k": "v"} and row.driver_info and row.driver_info.id == row.job_id
    assert "1 job: 1 SUCCEEDED." in command("job", "list").stdout
    assert command("job", "delete", "one").stdout == "Job 'one' deleted successfully\n"
    gone = command("job", "status", "one")
    assert gone.returncode == 1 and "Job one does not exist" in gone.stderr


def test_a_file_that_is_no_yaml_is_named(head: Path) -> None:
    file = head.parent / "environment.yaml"
    file.write_text("env_vars: [")
    done = command("job", "submit", "--runtime-env", str(file), "--", "true")
    assert done.returncode == 2 and "environment.yaml: while parsing" in done.stderr, done.stderr


def test_what_a_terminal_has_no_letters_for_is_escaped(
    head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = command("job", "submit", "--", "printf", "\N{CHECK MARK} \\377 done")
    assert done.returncode == 0, done.stderr
    assert "\\u2713 \\ufffd done" in done.stdout


def test_a_failing_job_ends_the_command_with_one_and_says_its_last_lines(head: Path) -> None:
    script = "echo out; exit 7"
    failed = command("job", "submit", "--submission-id", "bad", "--", "sh", "-c", script)
    assert failed.returncode == 1 and "Job 'bad' failed" in failed.stdout
    assert "exit code 7" in failed.stderr and failed.stderr.endswith("out\n\n")


def test_a_job_that_waits_says_why_and_is_stopped(head: Path) -> None:
    client = JobSubmissionClient()
    client.submit_job(entrypoint="true", submission_id="w", entrypoint_num_cpus=64)
    wait_until(lambda: "lacks" in str(client.get_job_info("w").message), "the reason to be known")
    waits = command("job", "status", "w").stdout
    assert "Status for job 'w': PENDING" in waits and re.search(r"lacks \{'CPU': 62", waits)
    assert "Job 'w' was stopped" in command("job", "stop", "w").stdout
    assert not client.stop_job("w"), "it had ended already"


def test_a_running_job_is_stopped_with_all_that_it_started(head: Path) -> None:
    client = JobSubmissionClient()
    mark = head / "marks"
    client.submit_job(
        entrypoint=f"setsid sleep 300 & echo $! > {mark}; echo up; exec sleep 300",
        submission_id="r",
    )
    wait_until(lambda: "up" in client.get_job_logs("r"), "it to begin")
    assert "Job 'r' was stopped" in command("job", "stop", "r").stdout
    assert have_ended([int(mark.read_text())]), "a daemon of it is left"


def test_an_address_of_a_dashboard_is_one_of_its_cluster(head: Path) -> None:
    url = JobSubmissionClient().get_address()
    listed = command("list", "nodes", "--address", f"{url}/")
    assert listed.returncode == 0 and "ALIVE" in listed.stdout, listed.stderr
    for address, why in (
        ("http://127.0.0.1:1", "No cluster of this machine has a dashboard at http://127.0.0.1:1"),
        ("garbage", "That is no address of a cluster: 'garbage' is not HOST:PORT"),
        ("", "That is no address of a cluster"),
    ):
        for words in (["list", "nodes"], ["status"], ["kill-actor", "x"], ["stack"]):
            failed = command(*words, "--address", address)
            assert failed.returncode == 1 and failed.stderr.startswith(f"Error: {why}"), words
            assert len(failed.stderr.splitlines()) <= 2, failed.stderr


def test_what_json_cannot_say_is_named(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = JobSubmissionClient()
    with pytest.raises(ValueError, match="entrypoint_num_cpus cannot be 'nan'"):
        client.submit_job(entrypoint="true", entrypoint_num_cpus=float("nan"))
    with pytest.raises(ValueError, match="metadata cannot be"):
        client.submit_job(entrypoint="true", metadata={"a": "\ud800"})
    monkeypatch.setenv("RAY_JOB_HEADERS", "{")
    with pytest.raises(ValueError, match=r"RAY_JOB_HEADERS is a JSON object of headers, not '\{'"):
        JobSubmissionClient()


def test_the_largest_environment_begins_and_a_larger_one_is_refused_at_once(head: Path) -> None:
    client = JobSubmissionClient()
    most = {"env_vars": {f"V{number}": "x" * 8500 for number in range(14)}}
    name = client.submit_job(
        entrypoint="test ${#V13} = 8500", runtime_env=most, submission_id="\N{SNOWMAN}" * 20
    )
    wait_until(lambda: client.get_job_status(name).is_terminal(), "it to end")
    assert client.get_job_info(name).driver_exit_code == 0
    with pytest.raises(RuntimeError, match="runtime_env and metadata may have 120,000 bytes"):
        client.submit_job(entrypoint="true", runtime_env=most, metadata={"k": "x" * 2000})
