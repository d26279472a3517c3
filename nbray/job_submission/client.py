"""`JobSubmissionClient`: submits programs to a cluster, and follows them."""

from __future__ import annotations

import asyncio
import codecs
import json
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from nbray.job_submission.rows import JobDetails, JobStatus, details_of
from nbray.job_submission.web import Server, find_server
from nbray.runtime_env.packaging import write_package
from nbray.runtime_env.spec import URI_PREFIX, validate
from nbray.state.submissions import new_submission_id

_TRIES = 3
_PATIENCE_S = 60.0
_AGAIN_S = 0.5
_PING_S = 20.0
_LIVED_S = 1.0
_NORMAL, _AWAY = 1000, 1011


class JobSubmissionClient:
    """Submits jobs to a cluster by its dashboard, and asks for them.

    Args:
        address: ``http://HOST:8265`` of a dashboard, or ``HOST:PORT`` of the head node; None takes
            ``NBRAY_API_SERVER_ADDRESS`` (or Ray's ``RAY_API_SERVER_ADDRESS``, and the variables
            ``NBRAY_ADDRESS`` and ``RAY_ADDRESS``), or the newest cluster of this machine.
        create_cluster_if_needed: taken for Ray's sake; a cluster is started by `nbray start`.
        cookies: sent with every request.
        metadata: written down with every job, beside its own.
        headers: sent with every request; ``RAY_JOB_HEADERS`` (JSON) by default.
        verify: of https, False does not check the certificate, a path names the authorities.

    Raises:
        ConnectionError: there is no such cluster, it has no dashboard, or that does not answer.
        AuthenticationError: it refuses this program's token.

    Examples:
        ```python
        from nbray.job_submission import JobSubmissionClient

        client = JobSubmissionClient("http://127.0.0.1:8265")
        job = client.submit_job(
            entrypoint="python train.py", runtime_env={"working_dir": "./project"}
        )
        print(client.get_job_status(job))
        ```
    """

    def __init__(
        self,
        address: str | None = None,
        create_cluster_if_needed: bool = False,
        cookies: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        verify: str | bool | None = True,
    ) -> None:
        given = dict(headers or {})
        if cookies:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        self._server: Server = find_server(address, given or None, verify)
        self._metadata = dict(metadata or {})
        self._version = self._asked("GET", "/api/version")

    def get_address(self) -> str:
        """Where the dashboard is.

        Returns:
            Its URL.
        """
        return self._server.url

    def get_version(self) -> str:
        """The version of the REST API.

        Returns:
            A number as text.
        """
        return str(self._version["version"])

    def submit_job(
        self,
        *,
        entrypoint: str,
        job_id: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        submission_id: str | None = None,
        entrypoint_num_cpus: float | None = None,
        entrypoint_num_gpus: float | None = None,
        entrypoint_memory: int | None = None,
        entrypoint_resources: Mapping[str, float] | None = None,
        entrypoint_label_selector: Mapping[str, str] | None = None,
    ) -> str:
        """Have a shell command run in the cluster, on the head node unless it names resources.

        When this returns, the job is not forgotten, whatever is killed.

        Args:
            entrypoint: the command.
            job_id: the former name of ``submission_id``.
            runtime_env: what it runs in, as for `nbray.init`; folders are sent now.
            metadata: texts by their names, which lists show.
            submission_id: how it is called; a new random name by default.
            entrypoint_num_cpus: CPUs that the command itself has, beside those of its tasks.
            entrypoint_num_gpus: its GPUs.
            entrypoint_memory: its memory, in bytes.
            entrypoint_resources: other resources, by name.
            entrypoint_label_selector: on which nodes it may run, as labels of theirs.

        Returns:
            The submission id.

        Raises:
            RuntimeError: the cluster refuses it; the text says why, as that the id is taken.
            TypeError, ValueError: the runtime environment cannot be.
        """
        given_name = submission_id or job_id
        name = given_name or new_submission_id()
        request = {
            "entrypoint": entrypoint, "submission_id": name,
            "runtime_env": self._sent(validate(runtime_env or {})),
            "metadata": {**self._metadata, **(metadata or {})},
            "entrypoint_num_cpus": entrypoint_num_cpus,
            "entrypoint_num_gpus": entrypoint_num_gpus, "entrypoint_memory": entrypoint_memory,
            "entrypoint_resources": entrypoint_resources,
            "entrypoint_label_selector": entrypoint_label_selector,
        }  # fmt: skip
        given = {key: value for key, value in request.items() if value is not None}
        body = _encoded(given)
        for left in reversed(range(_TRIES)):
            try:
                answer: dict[str, str] = self._asked("POST", "/api/jobs/", body)
                return answer["submission_id"]
            except ConnectionError:
                # Whether it was heard is not known. With a name that nobody else has, it may be
                # said once more: the second is refused then, and the job is there.
                if given_name is not None or not left:
                    raise
                time.sleep(_AGAIN_S)
                if self._knows(name):
                    break
        return name

    def _knows(self, submission_id: str) -> bool:
        try:
            return self._server.ask("GET", _path(submission_id))[0] == 200
        except ConnectionError:
            return False

    def _sent(self, env: dict[str, Any]) -> dict[str, Any]:
        """The environment with packages for its folders, which the cluster has then."""
        sent = dict(env)
        excludes = sent.pop("excludes", [])
        if "working_dir" in env:
            sent["working_dir"] = self._package(env["working_dir"], excludes, False)
        if "py_modules" in env:
            sent["py_modules"] = [self._package(path, excludes, True) for path in env["py_modules"]]
        return sent

    def _package(self, path: str, excludes: list[str], keep_name: bool) -> str:
        if path.startswith(URI_PREFIX):
            return path
        with tempfile.TemporaryFile() as package:
            uri = write_package(Path(path), excludes, keep_name, package)
            place = f"/api/packages/gcs/{uri.removeprefix(URI_PREFIX)}"
            if self._server.ask("GET", place)[0] != 200:
                status, said = self._server.ask("PUT", place, package, "application/octet-stream")
                if status != 200:
                    _refused(status, said)
        return uri

    def stop_job(self, job_id: str) -> bool:
        """Have a job end, also one that has not begun: by SIGTERM, after three seconds by SIGKILL.

        Args:
            job_id: its submission id.

        Returns:
            Whether it had not ended before.

        Raises:
            RuntimeError: there is no such job, or it was not submitted.
        """
        answer: dict[str, bool] = self._asked("POST", _path(job_id, "stop"))
        return answer["stopped"]

    def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended.

        Args:
            job_id: its submission id.

        Returns:
            True.

        Raises:
            RuntimeError: there is no such job, or it has not ended.
        """
        answer: dict[str, bool] = self._asked("DELETE", _path(job_id))
        return answer["deleted"]

    def get_job_info(self, job_id: str) -> JobDetails:
        """All that is known of a job.

        Args:
            job_id: its submission id, or the id of its driver.

        Returns:
            The job.

        Raises:
            RuntimeError: there is no such job.
        """
        return details_of(self._asked("GET", _path(job_id)))

    def list_jobs(self) -> list[JobDetails]:
        """All jobs that the cluster knows.

        Returns:
            Those that were submitted first, the newest on top; then drivers.
        """
        return [details_of(one) for one in self._asked("GET", "/api/jobs/")]

    def get_job_status(self, job_id: str) -> JobStatus:
        """Where a job is in its life.

        Args:
            job_id: its submission id.

        Returns:
            The status.

        Raises:
            RuntimeError: there is no such job.
        """
        status = self.get_job_info(job_id).status
        assert status is not None
        return status

    def get_job_logs(self, job_id: str) -> str:
        """What a job has written so far.

        Args:
            job_id: its submission id.

        Returns:
            The log; of a long one what is kept.

        Raises:
            RuntimeError: there is no such job.
        """
        answer: dict[str, str] = self._asked("GET", _path(job_id, "logs"))
        return answer["logs"]

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """What a job writes, from its first line to its last, as it comes.

        A connection that breaks, or is silent, is made again, and goes on where it was; a dashboard
        may be away for up to a minute.

        Args:
            job_id: its submission id.

        Returns:
            Pieces of text, of one line or more.

        Raises:
            RuntimeError: there is no such job. ConnectionError: the dashboard stays away.
        """
        from tornado.httpclient import HTTPClientError, HTTPRequest
        from tornado.websocket import (
            WebSocketClosedError,
            WebSocketError,
            websocket_connect,
        )

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        place = 0
        until = time.monotonic() + _PATIENCE_S
        while True:
            url, headers = self._server.websocket(
                _path(job_id, "logs/tail") + f"?from={place}&as=bytes"
            )
            context = self._server.certificates() if url.startswith("wss") else None
            try:
                request = HTTPRequest(url, headers=headers, ssl_options=context)
                socket = await websocket_connect(
                    request, max_message_size=64 << 20, ping_interval=_PING_S
                )
                began = time.monotonic()
                try:
                    while (data := await socket.read_message()) is not None:
                        until = time.monotonic() + _PATIENCE_S
                        data = data.encode() if isinstance(data, str) else data
                        place += len(data)
                        if text := decoder.decode(data):
                            yield text
                finally:
                    socket.close()
                if socket.close_code == _NORMAL:
                    break
                if socket.close_code != _AWAY and time.monotonic() - began > _LIVED_S:
                    until = time.monotonic() + _PATIENCE_S  # it was there, and had nothing to say
            except HTTPClientError as error:
                if error.code < 500 and error.response is not None:
                    _refused(error.code, error.response.body or b"")
            except (OSError, WebSocketClosedError, WebSocketError):
                pass  # it is made again
            if time.monotonic() > until:
                raise ConnectionError(
                    f"The dashboard at {self._server.url} has been away for {_PATIENCE_S:.0f} s; "
                    f"{place:,} bytes of the log were read."
                )
            await asyncio.sleep(_AGAIN_S)
        if text := decoder.decode(b"", final=True):
            yield text

    def _asked(self, method: str, path: str, body: bytes | None = None) -> Any:
        if body is None and method == "POST":
            body = b""
        status, said = self._server.ask(method, path, body)
        if status != 200:
            _refused(status, said)
        return json.loads(said)


def _encoded(request: Mapping[str, Any]) -> bytes:
    """As JSON, which has neither NaN nor halves of characters."""
    for name, value in request.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except ValueError as error:
            raise ValueError(f"{name} cannot be {str(value)[:200]!r}: {error}.") from None
    return json.dumps(request).encode()


def _path(job_id: str, what: str = "") -> str:
    return f"/api/jobs/{quote(job_id, safe='')}" + (f"/{what}" if what else "")


def _refused(status: int, said: bytes) -> NoReturn:
    text = said.decode(errors="replace")
    raise RuntimeError(f"Request failed with status code {status}: {text}.")
