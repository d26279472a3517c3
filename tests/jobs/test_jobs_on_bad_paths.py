"""Environments that fail, a head without power, TLS, a manager that stands still, big packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import command
from support.processes import processes_of, running
from support.stopping import stand_still

import nbray
from nbray.common.addresses import is_loopback, own_address
from nbray.job_submission import JobDetails, JobSubmissionClient
from nbray.testing import own_sessions, wait_until
from nbray.testing.processes import kill_all

pytestmark = [pytest.mark.slow, pytest.mark.alone]

_HEAD = ("start", "--head", "--port=0", "--num-cpus=2", "--include-dashboard=true",
         "--dashboard-port=0")  # fmt: skip
_SENDS = """
import resource, sys
from nbray.job_submission import JobSubmissionClient
client = JobSubmissionClient(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
client.submit_job(entrypoint="stat -c %s large", submission_id="large",
                  runtime_env={"working_dir": sys.argv[2]})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a head's sessions; what is started there ends with the test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with own_sessions() as found:
        yield found
        command("stop", "--all", "--force")


def _ended(client: JobSubmissionClient, name: str, timeout: float = 60) -> JobDetails:
    wait_until(lambda: client.get_job_status(name).is_terminal(), f"{name} to end", timeout)
    return client.get_job_info(name)


def _session(root: Path) -> Path:
    (found,) = [path.parent for path in root.glob("*/session.json")]
    return found


def test_an_environment_that_fails_fails_its_job_at_once_with_the_last_lines(root: Path) -> None:
    assert command(*_HEAD).returncode == 0
    client = JobSubmissionClient()
    name = client.submit_job(
        entrypoint="true", runtime_env={"pip": ["./no-such-folder-of-a-package"]}
    )
    ended = _ended(client, name, 60)
    assert (ended.status, ended.error_type) == ("FAILED", "RUNTIME_ENV_SETUP_FAILURE")
    assert "no-such-folder-of-a-package" in str(ended.message), "what pip said is there"
    assert client.get_job_logs(name) == "", "nothing of it has run"
    lost = {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"}
    ended = _ended(client, client.submit_job(entrypoint="true", runtime_env=lost))
    assert ended.error_type == "RUNTIME_ENV_SETUP_FAILURE"
    assert "_ray_pkg_0123456789abcdef" in str(ended.message)


def test_jobs_outlive_a_head_that_lost_its_power_and_none_runs_twice(
    root: Path, tmp_path: Path
) -> None:
    assert command(*_HEAD).returncode == 0
    client = JobSubmissionClient()
    marks = tmp_path / "marks"
    client.submit_job(entrypoint=f"echo done >> {marks}", submission_id="done")
    assert _ended(client, "done").status == "SUCCEEDED"
    line = f"echo cut >> {marks}; sleep 300"
    client.submit_job(entrypoint=line, submission_id="cut")
    wait_until(lambda: "cut" in marks.read_text(), "the second to begin", 60)
    client.submit_job(
        entrypoint=f"echo later >> {marks}", submission_id="later", entrypoint_resources={"x": 1}
    )
    session = _session(root)
    for _ in range(5):  # what one of them starts again meanwhile is killed as well
        kill_all(processes_of(session))
    wait_until(lambda: not processes_of(session), "all to have gone", 60)
    back = command("start", "--head", "--num-cpus=2", f"--session={session}", "--resources",
                   '{"x": 1}', "--include-dashboard=true", "--dashboard-port=0")  # fmt: skip
    assert back.returncode == 0, back.stderr
    client = JobSubmissionClient()
    assert client.get_job_info("done").status == "SUCCEEDED"
    assert _ended(client, "later", 120).status == "SUCCEEDED"
    cut = _ended(client, "cut", 120)
    assert (cut.status, cut.error_type) == ("FAILED", "JOB_SUPERVISOR_ACTOR_DIED")
    assert sorted(marks.read_text().split()) == ["cut", "done", "later"]
    assert len(client.list_jobs()) == 3


def test_a_dashboard_with_tls_takes_packages_follows_logs_and_is_told_from_others(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_USE_TLS", "1")
    host = own_address("192.0.2.1:1")
    if is_loopback(host):
        pytest.skip("this machine has no address but its own, where dashboards need no TLS")
    assert command(*_HEAD, f"--dashboard-host={host}").returncode == 0
    work = tmp_path / "work"
    work.mkdir()
    (work / "x.py").write_text("print('from a package')")
    done = command("job", "submit", "--working-dir", str(work), "--", "python", "x.py")
    assert done.returncode == 0, done.stderr
    assert "from a package" in done.stdout and "succeeded" in done.stdout
    client = JobSubmissionClient()
    assert client.get_address().startswith("https://")
    assert JobSubmissionClient(client.get_address()).list_jobs(), "by its URL as well"
    plain = client.get_address().replace("https", "http")
    refused = command("job", "list", "--address", plain)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr


def test_a_manager_that_stands_still_loses_no_job(root: Path, tmp_path: Path) -> None:
    assert command(*_HEAD).returncode == 0
    client = JobSubmissionClient()
    marks = tmp_path / "marks"
    first = client.submit_job(entrypoint=f"echo first >> {marks}; sleep 3")
    wait_until(marks.exists, "the first job to begin", 60)
    (manager,) = running(root, "nbray.jobs")
    stand_still(manager.pid)
    try:
        names = [client.submit_job(entrypoint=f"echo {n} >> {marks}") for n in range(5)]
        stopped = client.submit_job(entrypoint=f"echo never >> {marks}")
        assert client.stop_job(stopped)
        assert client.get_job_status(stopped) == "STOPPED", "it had not begun: no manager is needed"
        # The first job's supervisor needs no manager to say how it ended.
        assert _ended(client, first).status == "SUCCEEDED"
    finally:
        manager.send_signal(signal.SIGCONT)
    for name in names:
        assert _ended(client, name).status == "SUCCEEDED"
    assert sorted(marks.read_text().split()) == ["0", "1", "2", "3", "4", "first"]


def test_a_large_package_is_sent_in_parts_by_the_client(root: Path, tmp_path: Path) -> None:
    assert command(*_HEAD).returncode == 0
    work = tmp_path / "work"
    work.mkdir()
    with (work / "large").open("wb") as file:
        for _ in range(60):
            file.write(os.urandom(1 << 20))
    address = JobSubmissionClient().get_address()
    sent = subprocess.run(
        [sys.executable, "-c", _SENDS, address, str(work)], capture_output=True, text=True
    )
    assert sent.returncode == 0, sent.stderr
    assert int(sent.stdout) < 32 << 10, "KiB more than before"
    client = JobSubmissionClient()
    assert _ended(client, "large", 120).status == "SUCCEEDED"
    assert str(60 << 20) in client.get_job_logs("large")


def test_the_token_of_another_user_is_refused_and_a_fork_of_the_client_goes_on(root: Path) -> None:
    assert command(*_HEAD).returncode == 0
    client = JobSubmissionClient()
    url = client.get_address()
    with pytest.MonkeyPatch.context() as patch, own_sessions():  # who sees none of the others
        patch.setenv("NBRAY_AUTH_TOKEN", "f" * 64)
        with pytest.raises(nbray.exceptions.AuthenticationError, match="refuses this program"):
            JobSubmissionClient(url)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            client.submit_job(entrypoint="true", submission_id="forked")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    client.submit_job(entrypoint="true", submission_id="parent")
    assert {_ended(client, name).status for name in ("forked", "parent")} == {"SUCCEEDED"}
