"""Another user of the machine, who has no token, sees nothing of a cluster and changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbray.testing import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("useradd", "setpriv"))),
        reason="only root makes users, by useradd and setpriv",
    ),
]

OWNER = """
import json, os, sys, time, zipfile
os.chdir(os.environ["HOME"])
import nbray
from nbray.driver.driver import current_driver
from nbray.job_submission import JobSubmissionClient
context = nbray.init("local", num_cpus=1, object_store_memory=64 << 20, include_dashboard=True,
                     dashboard_port=0)
os.mkdir("files")
open("files/words", "w").write("the owner's secret words")
client = JobSubmissionClient(context["gcs_address"])
job = client.submit_job(entrypoint="cat words", submission_id="owners",
                        runtime_env={"working_dir": "files"}, metadata={"key": "owners-secret"})
while not client.get_job_status(job).is_terminal():
    time.sleep(0.1)
assert "secret words" in client.get_job_logs(job)
kept = nbray.put(b"secret value" * 100_000)
session = current_driver().node.session.path
token = (session / "token").read_bytes()
print(json.dumps([context.dashboard_url, str(session), token.hex()]), flush=True)
sys.stdin.read()
"""

STRANGER = """
import json, os, sys, urllib.error, urllib.request
url, session = sys.argv[1:]
pages = ["", "nodes", "tasks", "jobs", "job?id=owners", "logs", "flames", "plot?name=task-stream",
         "api/jobs/", "api/jobs/owners", "api/jobs/owners/logs", "api/v0/tasks", "api/tasks",
         "api/cluster_status", "api/version", "api/prometheus/sd", "api/packages/gcs/x.zip",
         "metrics", "trace.json", "log?node=1&name=gcs.log", "ws", "static/own/nbray.js",
         "api/component_activities", "login?key=guess", "api/jobs/owners/logs/tail"]
acts = [("POST", "act", b'{"act": "flames"}'), ("POST", "api/jobs/", b'{"entrypoint": "id"}'),
        ("POST", "api/jobs/owners/stop", b""), ("DELETE", "api/jobs/owners", None),
        ("PUT", "api/packages/gcs/mine.zip", b"x" * 1000)]
answers = {}
for method, path, body in [("GET", page, None) for page in pages] + acts:
    request = urllib.request.Request(f"http://{url}/{path}", body, method=method,
                                     headers={"Origin": f"http://{url}", "Nbray-Page": "guess"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            answers[f"{method} {path}"] = [reply.status, reply.read().decode(errors="replace")]
    except urllib.error.HTTPError as error:
        answers[f"{method} {path}"] = [error.code, error.read().decode(errors="replace")]
read = []
for place in [session, *(f"{session}/{name}" for name in (
        "token", "gcs.sqlite", "session.json", "logs", "logs/gcs.log", "runtime_resources",
        "series", "sockets"))]:
    try:
        os.listdir(place) if os.path.isdir(place) else open(place, "rb").read()
        read.append(place)
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        pass
seen = []
for pid in filter(str.isdecimal, os.listdir("/proc")):
    for name in ("cmdline", "environ"):
        try:
            seen.append(open(f"/proc/{pid}/{name}", "rb").read().decode(errors="replace"))
        except OSError:
            pass
shared = []
for name in os.listdir("/dev/shm"):
    try:
        if b"secret value" in open(f"/dev/shm/{name}", "rb").read(64 << 20):
            shared.append(name)
    except OSError:
        pass
print(json.dumps([answers, read, "\\0".join(seen), shared]))
"""


@contextlib.contextmanager
def user() -> Iterator[tuple[str, Path]]:
    """A user of this machine, with a folder of its own; removed afterwards."""
    name = f"nbray{secrets.token_hex(4)}"
    subprocess.run(["useradd", "--no-create-home", name], check=True, capture_output=True)
    folder = Path(tempfile.mkdtemp(prefix="nb", dir="/tmp"))
    shutil.chown(folder, name)
    try:
        yield name, folder
    finally:
        wait_until(lambda: not _kill_those_of(name), f"the end of what {name} runs")
        ended = subprocess.run(["userdel", name], check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        shutil.rmtree(folder)


def _kill_those_of(name: str) -> bool:
    """Kill what that user runs; whether there was something, be it on its way to its end."""
    ended = subprocess.run(["pkill", "-KILL", "-u", name], check=False)
    return ended.returncode == 0


def as_user(
    name: str, folder: Path, *command: str, reads_all: bool = False
) -> subprocess.Popen[str]:
    """A program of that user; if it ``reads_all``, also by a Python that only root may read."""
    who = ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups"]
    if reads_all:
        who += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "NBRAY_TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [*who, *command], cwd="/", env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_user_without_the_token_sees_and_changes_nothing() -> None:
    with user() as (owner, owners), user() as (stranger, strangers):
        pythons = [os.path.realpath(sys.executable), "/usr/bin/python3"]
        mine = [p for p in pythons if not as_user(stranger, strangers, p, "-V").wait(60)]
        if not mine:
            pytest.skip("there is no Python that another user may start")
        program = as_user(owner, owners, sys.executable, "-c", OWNER, reads_all=True)
        assert program.stdout is not None and program.stdin is not None
        line = program.stdout.readline()
        assert line, program.communicate()[1]
        url, session, token = json.loads(line)
        spy = as_user(stranger, strangers, mine[0], "-c", STRANGER, url, session)
        out, err = spy.communicate(timeout=100)
        assert not spy.returncode, err
        found: Any = json.loads(out)
        answers, read, processes, shared = found
        program.stdin.close()
        program.wait(60)
    for asked, (status, text) in answers.items():
        assert status in (401, 403), (asked, status, text[:300])
        assert "secret" not in text and "owners" not in text, asked
        assert session not in text and "raylet" not in text, asked
    assert len(answers) == 30
    assert not read and not shared
    assert token not in processes
    mine_too = (OWNER, STRANGER)
    told = ("secret words", "secret value", "owners-secret")  # others have secrets of their own
    others = [
        one for one in processes.split("\0")
        if one not in mine_too and any(secret in one for secret in told)
    ]  # fmt: skip
    assert not others
