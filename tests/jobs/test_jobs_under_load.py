"""Many jobs, large packages, long logs, readers that do not read, uploads that never end."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import signal
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import nbray
from nbray.driver.driver import current_driver
from nbray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from nbray.testing import Proxy, own_sessions, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def client() -> Iterator[JobSubmissionClient]:
    with own_sessions():
        context = nbray.init("local", num_cpus=2, include_dashboard=True, dashboard_port=0)
        yield JobSubmissionClient(context["gcs_address"])
        nbray.shutdown()


def _ended(client: JobSubmissionClient, name: str, timeout: float = 60) -> JobDetails:
    wait_until(lambda: client.get_job_status(name).is_terminal(), f"{name} to end", timeout)
    return client.get_job_info(name)


def _dashboard() -> psutil.Process:
    driver = current_driver()
    assert driver is not None and driver.node is not None
    session = driver.node.session
    wait_until(lambda: len(session.read_info()["pids"]) > 2, "the session to tell of the dashboard")
    return psutil.Process(session.read_info()["pids"][2])


async def _tail(client: JobSubmissionClient, name: str) -> str:
    return "".join([text async for text in client.tail_job_logs(name)])


def test_two_hundred_jobs_at_once_all_run_once(client: JobSubmissionClient, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    names = [
        client.submit_job(entrypoint=f"echo {number} >> {marks}", submission_id=f"many{number}")
        for number in range(200)
    ]
    for name in names:
        assert _ended(client, name, 150).status == "SUCCEEDED"
    assert sorted(map(int, marks.read_text().split())) == list(range(200))


def test_a_package_of_300_mb_passes_through_without_being_held(
    client: JobSubmissionClient, tmp_path: Path
) -> None:
    package = tmp_path / "large.zip"
    with zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("zero", os.urandom(300 << 20))
    before = _dashboard().memory_info().rss
    name = client.submit_job(
        entrypoint="stat -c %s zero", runtime_env={"working_dir": str(package)}
    )
    assert _dashboard().memory_info().rss - before < 100 << 20
    assert _ended(client, name, 100).status == "SUCCEEDED"
    assert str(300 << 20) in client.get_job_logs(name)


def test_a_log_is_followed_across_the_death_of_the_dashboard(client: JobSubmissionClient) -> None:
    script = "for i in $(seq 60); do echo line $i; sleep 0.1; done; printf last"
    name = client.submit_job(entrypoint=script)
    lines: list[str] = []

    async def follow() -> None:
        async for text in client.tail_job_logs(name):
            if not lines:
                _dashboard().kill()
            lines.append(text)

    asyncio.run(follow())
    text = "".join(lines)
    assert [int(line.split()[1]) for line in text.splitlines()[1:-1]] == list(range(1, 61))
    assert text.endswith("last"), "the last line has no line break, and came"
    assert _ended(client, name).status == "SUCCEEDED"


def test_odd_bytes_of_a_log_come_whole(client: JobSubmissionClient) -> None:
    name = client.submit_job(entrypoint=r"printf '\303\244\377\n%.0s' $(seq 100000)")
    assert _ended(client, name).status is JobStatus.SUCCEEDED
    text = asyncio.run(_tail(client, name))
    assert text.count("ä\N{REPLACEMENT CHARACTER}\n") == 100_000


def _raw(client: JobSubmissionClient) -> tuple[str, int, dict[str, str]]:
    host, _, port = client.get_address().removeprefix("http://").rpartition(":")
    driver = current_driver()
    assert driver is not None
    return host, int(port), {"Authorization": f"Bearer {driver.core.session.token.hex()}"}


def test_a_reader_that_never_reads_holds_up_nobody(client: JobSubmissionClient) -> None:
    name = client.submit_job(
        entrypoint="yes 0123456789012345678901234567890123456789 | head -c 80000000"
    )
    host, port, shown = _raw(client)
    with socket.create_connection((host, port)) as idle:
        idle.sendall(
            f"GET /api/jobs/{name}/logs/tail HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            f"Authorization: {shown['Authorization']}\r\n\r\n".encode()
        )
        assert _ended(client, name).status == "SUCCEEDED"
        time.sleep(1)
        assert _dashboard().memory_info().rss < 300 << 20
        assert _ended(client, client.submit_job(entrypoint="true")).status == "SUCCEEDED"


def _put(client: JobSubmissionClient, name: str, body: bytes, **more: Any) -> tuple[int, str]:
    host, port, shown = _raw(client)
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("PUT", f"/api/packages/gcs/{name}", body, {**shown, **more})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_name_is_taken_by_one_content_only(client: JobSubmissionClient) -> None:
    assert _put(client, "_ray_pkg_0123456789abcdef.zip", b"one" * 3_000_000)[0] == 200
    assert _put(client, "_ray_pkg_0123456789abcdef.zip", b"one" * 3_000_000)[0] == 200
    status, why = _put(client, "_ray_pkg_0123456789abcdef.zip", b"two" * 3_000_000)
    assert status == 409 and hashlib.sha256(b"one" * 3_000_000).hexdigest()[:16] in why
    for name in ("..%2Fx.zip", "x.exe", "%00.zip", "-x.zip", "x" * 300 + ".zip"):
        assert _put(client, name, b"x")[0] in (400, 404), name
    assert _put(client, "empty.zip", b"")[0] == 400


def test_a_body_without_end_or_half_a_body_takes_nothing(client: JobSubmissionClient) -> None:
    host, port, shown = _raw(client)
    before = _dashboard().memory_info().rss
    head = f"Host: x\r\nAuthorization: {shown['Authorization']}\r\n"
    with socket.create_connection((host, port)) as half:
        length = "Content-Length: 400000000\r\n\r\n"
        half.sendall(f"PUT /api/packages/gcs/half.zip HTTP/1.1\r\n{head}{length}".encode())
        half.sendall(b"x" * (20 << 20))
    with socket.create_connection((host, port)) as large:
        large.sendall(f"POST /api/jobs/ HTTP/1.1\r\n{head}{length}".encode())
        assert b"413" in large.recv(1000) or not large.recv(1000)
    status, _said = client._server.ask("GET", "/api/packages/gcs/half.zip")
    assert status == 404
    assert _dashboard().memory_info().rss - before < 60 << 20
    jobs = len(client.list_jobs())
    with socket.create_connection((host, port)) as broken:
        broken.sendall(f"POST /api/jobs/ HTTP/1.1\r\n{head}Content-Length: 50\r\n\r\n{{".encode())
    assert len(client.list_jobs()) == jobs, "a request that broke off has left no job"


def test_the_key_for_reading_and_a_cookie_alone_change_nothing(client: JobSubmissionClient) -> None:
    from nbray.state.dashboard import api_key

    driver = current_driver()
    assert driver is not None
    host, port, _shown = _raw(client)
    connection = http.client.HTTPConnection(host, port, timeout=30)
    reader = {"Authorization": f"Bearer {api_key(driver.core.session.token)}"}
    connection.request("POST", "/api/jobs/", b'{"entrypoint": "true"}', reader)
    answer = connection.getresponse()
    assert (answer.status, b"token" in answer.read()) == (403, True)


def test_a_job_that_ignores_sigterm_is_killed_and_one_of_signals_says_which(
    client: JobSubmissionClient,
) -> None:
    name = client.submit_job(entrypoint="trap '' TERM; echo up; while :; do sleep 1; done")
    wait_until(lambda: "\nup" in client.get_job_logs(name), "it to begin", 30)
    assert client.stop_job(name)
    assert _ended(client, name).status == "STOPPED"
    ended = _ended(client, client.submit_job(entrypoint="kill -SEGV $$"))
    assert (ended.status, ended.driver_exit_code) == ("FAILED", -signal.SIGSEGV)


def test_a_job_is_stopped_in_the_moment_in_which_it_begins(client: JobSubmissionClient) -> None:
    for pause in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3):
        name = client.submit_job(entrypoint="trap '' TERM; while :; do sleep 1; done")
        time.sleep(pause)
        assert client.stop_job(name)
        assert _ended(client, name).status == "STOPPED", pause


def test_a_job_that_was_silent_for_long_is_followed_across_the_dashboards_death(
    client: JobSubmissionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbray.job_submission.client._PATIENCE_S", 5.0)
    name = client.submit_job(entrypoint="sleep 9; echo spoken")
    following = threading.Timer(7.0, lambda: _dashboard().kill())
    following.start()
    assert "spoken" in asyncio.run(_tail(client, name))
    following.join()


def test_a_path_that_is_silent_is_given_up_and_the_log_goes_on(
    client: JobSubmissionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbray.job_submission.client._PING_S", 0.5)
    host, port, headers = _raw(client)
    name = client.submit_job(entrypoint="echo begun; sleep 3; echo spoken")

    async def follow(through: Proxy) -> str:
        other = JobSubmissionClient(f"http://127.0.0.1:{through.place[1]}", headers=headers)
        text = ""
        async for part in other.tail_job_logs(name):
            if "begun" in part:
                through.hold()
            text += part
        return text

    with Proxy((host, port)) as proxy:
        assert "spoken" in asyncio.run(asyncio.wait_for(follow(proxy), 60))
