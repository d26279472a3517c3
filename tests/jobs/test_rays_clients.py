"""Ray's unmodified command line and SDK on nbray's jobs and state; RAY_PYTHON has Ray.

RAY_OLDER_PYTHON may have an older release, whose clients know no tokens and show one by a header.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.commands import command
from support.web import fetch

from nbray.state.client import find_cluster, find_dashboard
from nbray.testing import own_sessions

pytestmark = pytest.mark.slow

_SCRIPT = """
import os, sys
print("hello", sys.argv[1:], os.environ.get("A"), sorted(os.listdir(".")))
"""
_SDK = """
import json, os, time
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"])
job = client.submit_job(
    entrypoint="echo sdk; ls; python -c 'import some_module'",
    runtime_env={"working_dir": "w", "py_modules": ["some_module"], "excludes": ["data.txt"]},
)
while not client.get_job_status(job).is_terminal():
    time.sleep(0.2)
info = client.get_job_info(job)
print(json.dumps([info.status, client.get_job_logs(job), len(client.list_jobs()) > 0]))
"""


_STATE = """
import json, os
import ray.util.state as state
address = os.environ["RAY_API_SERVER_ADDRESS"]
counted = {}
for table in ("nodes", "actors", "jobs", "workers", "tasks", "objects", "placement_groups",
              "runtime_envs", "cluster_events"):
    for detail in (False, True):
        ask = getattr(state, f"list_{table}")
        counted[f"list_{table}"] = len(ask(address=address, detail=detail, limit=1000))
for table in ("tasks", "actors", "objects"):
    counted[f"summarize_{table}"] = len(getattr(state, f"summarize_{table}")(address=address))
print(json.dumps(counted))
"""


# Ray's client of logs asks its own GCS for the URL of the REST API, in Ray's own protocol; from
# there on it is as it is.
_LOGS = """
import json, os, sys
import ray.util.state.api as api
address = os.environ["RAY_API_SERVER_ADDRESS"]
api.ray_address_to_api_server_url = lambda _address: address
(node,) = api.list_nodes(address=address)
names = api.list_logs(address=address, node_id=node.node_id)
job = sys.argv[1]
ask = dict(address=address, node_id=node.node_id)
print(json.dumps({
    "groups": sorted(names),
    "job": "".join(api.get_log(submission_id=job, **ask)),
    "file": "".join(api.get_log(filename="raylet.log", tail=2, **ask)),
    "streamed": next(iter(api.get_log(filename="raylet.log", follow=True, tail=1, **ask))),
    "wrong": attempt(api, ask),
}))
"""
_ATTEMPT = """
def attempt(api, ask):
    try:
        return "".join(api.get_log(filename="nothing.log", **ask))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


@dataclass
class Ray:
    """Ray's programs, and what they are told of the cluster."""

    python: str
    folder: Path
    variables: dict[str, str]
    tells_token: bool = True
    address: str = field(default="")

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(self.python).parent / words[0]), *words[1:]], capture_output=True, text=True,
            timeout=100, cwd=self.folder, env={**os.environ, **self.variables, **variables},
        )  # fmt: skip

    def job(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run("ray", "job", *words, **variables)


@pytest.fixture(scope="module", params=["RAY_PYTHON", "RAY_OLDER_PYTHON"])
def ray(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    python = os.environ.get(request.param)
    if not python:
        pytest.skip(f"{request.param} names no interpreter that has Ray")
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch, own_sessions():
        patch.setenv("HOME", str(folder))
        started = command(
            "start", "--head", "--port=0", "--num-cpus=2", "--include-dashboard=true",
            "--dashboard-port=0",
        )  # fmt: skip
        assert started.returncode == 0, started.stderr
        found = find_dashboard(*find_cluster(None))
        assert found is not None
        token = command("get-auth-token").stdout
        work = folder / "w"
        work.mkdir()
        (work / "x.py").write_text(_SCRIPT)
        module = folder / "some_module"
        module.mkdir()
        (module / "__init__.py").write_text("")
        (work / "data.txt").write_text("v")
        address = f"http://{found.url}"
        shown = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        if request.param == "RAY_OLDER_PYTHON":
            shown = {"RAY_JOB_HEADERS": json.dumps({"Authorization": f"Bearer {token}"})}
        variables = {"RAY_API_SERVER_ADDRESS": address, "RAY_ADDRESS": address, **shown}
        yield Ray(python, folder, variables, request.param == "RAY_PYTHON", address)
        assert command("stop").returncode == 0


def test_a_job_is_submitted_and_followed_to_its_last_line(ray: Ray) -> None:
    done = ray.job(
        "submit", "--working-dir", "w", "--runtime-env-json", '{"env_vars": {"A": "b"}}',
        "--submission-id", "one", "--metadata-json", '{"k": "v"}', "--",
        "python", "x.py", "a", "b c",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "hello ['a', 'b c'] b ['data.txt', 'x.py']" in done.stdout
    assert "Job 'one' succeeded" in done.stdout + done.stderr
    again = ray.job("submit", "--submission-id", "one", "--no-wait", "--", "true")
    assert again.returncode == 1 and "already exists. Please use a different" in again.stderr
    logs = ray.job("logs", "one")
    assert "hello ['a', 'b c'] b" in logs.stdout + logs.stderr


def test_a_failing_job_is_one_and_a_long_one_is_stopped(ray: Ray) -> None:
    failed = ray.job("submit", "--submission-id", "bad", "--", "sh", "-c", "echo out; exit 7")
    assert failed.returncode == 1
    assert "exit code 7" in failed.stdout + failed.stderr
    words = ("submit", "--no-wait", "--entrypoint-num-cpus", "0.5", "--submission-id", "long")
    assert "submitted" in str(ray.job(*words, "--", "sleep", "100"))
    deadline = time.monotonic() + 60
    while "RUNNING" not in str(ray.job("status", "long")):
        assert time.monotonic() < deadline
    assert "was stopped" in str(ray.job("stop", "long"))
    listed = ray.job("list").stdout
    assert "submission_id='bad'" in listed and "JOB_ENTRYPOINT_COMMAND_ERROR" in listed
    assert "deleted successfully" in str(ray.job("delete", "bad"))
    assert "Job bad does not exist" in str(ray.job("status", "bad"))


def test_a_wrong_token_and_none_are_refused_by_name(ray: Ray) -> None:
    if ray.tells_token:
        wrong = ray.job("list", RAY_AUTH_TOKEN="wrongwrongwrongwrong")
        assert "AuthenticationError: Authentication failed" in wrong.stdout + wrong.stderr
        none = ray.job("list", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
        assert "AuthenticationError: Authentication required" in none.stdout + none.stderr
        header = json.dumps({"Authorization": f"Bearer {ray.variables['RAY_AUTH_TOKEN']}"})
        shown = ray.job("status", "long", RAY_AUTH_MODE="disabled", RAY_JOB_HEADERS=header)
        assert "'long' was stopped" in shown.stdout
    else:
        assert ray.job("list", RAY_JOB_HEADERS="{}").returncode != 0


def test_the_sdk_sends_folders_and_waits(ray: Ray) -> None:
    if not ray.tells_token:
        script = _SDK.replace(
            '"RAY_API_SERVER_ADDRESS"]',
            '"RAY_API_SERVER_ADDRESS"], headers=json.loads(os.environ["RAY_JOB_HEADERS"])',
        )
    else:
        script = _SDK
    done = ray.run("python", "-c", script)
    assert done.returncode == 0, done.stderr
    status, logs, listed = json.loads(done.stdout.splitlines()[-1])
    assert status == "SUCCEEDED" and "sdk" in logs and "data.txt" not in logs and listed


def test_the_state_is_listed_counted_and_looked_up(ray: Ray) -> None:
    if not ray.tells_token:
        pytest.skip("older clients of the state cannot show a token")
    done = ray.run("python", "-c", _STATE)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["list_nodes"] == 1 and counted["list_actors"] and counted["list_jobs"]
    listed = ray.run("ray", "list", "nodes", "--address", ray.address, "--format", "json")
    (node,) = json.loads(listed.stdout)
    found = ray.run("ray", "get", "nodes", node["node_id"], "--address", ray.address)
    assert node["node_id"] in found.stdout, found.stderr


def test_logs_are_listed_read_and_followed_by_rays_own_code(ray: Ray) -> None:
    if not ray.tells_token:
        pytest.skip("older clients of the logs cannot show a token")
    done = ray.job("submit", "--submission-id", "speaks", "--", "echo", "a line of the job")
    assert done.returncode == 0, done.stderr
    told = ray.run("python", "-c", _ATTEMPT + _LOGS, "speaks")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert {"raylet", "worker_out"} <= set(found["groups"]), found["groups"]
    assert "a line of the job" in found["job"]
    assert found["file"].count("\n") == 2 and found["streamed"]
    assert "RayStateApiException" in found["wrong"] and "nothing.log" in found["wrong"]


def test_who_ends_idle_clusters_hears_whether_this_one_is_at_work(ray: Ray) -> None:
    header = {"Authorization": f"Bearer {command('get-auth-token').stdout}"}
    status, body, _headers = fetch(f"{ray.address}/api/component_activities", header)
    assert status == 200
    driver = json.loads(body)["driver"]
    assert driver["is_active"] in ("ACTIVE", "INACTIVE") and driver["timestamp"] > 1e9
    script = (
        "import json, sys; from ray.dashboard.modules.job.job_head import RayActivityResponse\n"
        "print(RayActivityResponse(**json.loads(sys.argv[1])).is_active.value)"
    )
    read = ray.run("python", "-c", script, json.dumps(driver))
    if ray.tells_token:
        assert read.stdout.strip() == driver["is_active"], read.stderr
