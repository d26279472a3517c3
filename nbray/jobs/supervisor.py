"""The supervisor of a job: a detached actor, in the job's runtime environment, on the job's node.

It runs nothing before the GCS has said that the job is its own, and says nothing of the end before
the log is complete and every process of the job has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import nbray
from nbray.common.log_files import Log, mark_as_written
from nbray.core_worker.current import joined_core
from nbray.driver.joining import OWN_SESSION
from nbray.exceptions import NbrayError
from nbray.jobs import keeper
from nbray.jobs.names import JOB_CONFIG, RAY_JOB_CONFIG
from nbray.state.submissions import log_name
from nbray.wire.submission_messages import ChangeSubmission, Submission, SubmissionChanged

_SHOWN = 20_000
_STOP_WAIT_S = 3.0
_AGAIN_S = 1.0
_LEAVES_S = 1.0


class JobSupervisor:
    """Runs one job. All methods are coroutines of the actor's one loop."""

    def __init__(self) -> None:
        self._job: asyncio.Task[None] | None = None
        self._keeper: asyncio.subprocess.Process | None = None
        self._stop = False

    async def run(self, encoded: bytes, head: Mapping[str, str]) -> None:
        """Run the job of a row, once, however often this is called; the actor ends with it.

        So it leaves also when its manager has gone. What became of the job, its row says.
        """
        if self._job is None:
            row = msgspec.msgpack.decode(encoded, type=Submission)
            self._job = asyncio.get_running_loop().create_task(self._run(row, dict(head)))
        await asyncio.shield(self._job)
        # After the answer: a call that ends its actor is a failed one.
        asyncio.get_running_loop().call_later(_LEAVES_S, joined_core().on_exit_actor)

    async def stop(self) -> None:
        """End the job's processes; `run` says when they have gone."""
        self._stop = True
        if self._keeper is not None:
            await self._tell_stop()

    async def _tell_stop(self) -> None:
        name = os.environ.get("RAY_JOB_STOP_SIGNAL", "SIGTERM")
        if not isinstance(getattr(signal, name, None), signal.Signals):
            name = "SIGTERM"
        assert self._keeper is not None and self._keeper.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has ended by itself
            self._keeper.stdin.write(json.dumps({"stop": name}).encode() + b"\n")
            await self._keeper.stdin.drain()

    async def _run(self, row: Submission, head: dict[str, str]) -> None:
        core = joined_core()
        me = bytes.fromhex(nbray.get_runtime_context().get_actor_id() or "")
        claim = ChangeSubmission(
            row.submission_id, "claimed", me, node_id=core.address.node_id,
            host=core.address.host, pid=os.getpid(),
        )  # fmt: skip
        if not (await _change(claim)).done:
            return  # it was stopped, or another has it
        end = ChangeSubmission(row.submission_id, "failed", me)
        try:
            await self._keep(row, head, end)
        except (OSError, ValueError) as error:
            end.message = f"Job entrypoint command failed to start: {error}"
            end.error_type = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
        await _change(end)

    async def _keep(self, row: Submission, head: dict[str, str], end: ChangeSubmission) -> None:
        """Run the entrypoint to its end; ``end`` is what is to be said of it."""
        core = joined_core()
        log = core.session.log_path(log_name(row.submission_id))
        with open(log, "ab") as out:
            mark_as_written(out.fileno())
            out.write(
                f"Running entrypoint for job {row.submission_id}: {row.entrypoint}\n".encode()
            )
            out.flush()
            answers, said = os.pipe()
            try:
                self._keeper = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", keeper.__file__, str(said),
                    stdin=asyncio.subprocess.PIPE, stdout=out, stderr=out, pass_fds=[said],
                    start_new_session=True,
                    env=_environment(
                        row, head, core.runtime_envs.sys_path, str(core.session.path)
                    ),
                )  # fmt: skip
            finally:
                os.close(said)
        wait_s = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", _STOP_WAIT_S))
        order = {"entrypoint": row.entrypoint, "stop_wait_s": wait_s}
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(json.dumps(order).encode() + b"\n")
        await self._keeper.stdin.drain()
        if self._stop:
            await self._tell_stop()
        reader = asyncio.StreamReader()
        with open(answers, "rb", buffering=0) as pipe:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
            known: dict[str, Any] = {}
            async for line in reader:
                known.update(json.loads(line))
            transport.close()
        await self._keeper.wait()
        self._say_end(known, Log(log), end)

    @staticmethod
    def _say_end(known: dict[str, Any], log: Log, end: ChangeSubmission) -> None:
        code = end.exit_code = known.get("exit")
        if code == 0:
            end.event = "succeeded"
            return
        last = log.tail(_SHOWN).decode(errors="replace")
        if "error" in known:
            end.message = f"Job entrypoint command failed to start: {known['error']}"
            end.error_type = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
            return
        end.error_type = "JOB_ENTRYPOINT_COMMAND_ERROR"
        how = "ended with what runs it" if code is None else f"failed with exit code {code}"
        end.message = (
            f"Job entrypoint command {how}, last available logs (truncated to 20,000 chars):\n"
            f"{last}"
        )


async def _change(request: ChangeSubmission) -> SubmissionChanged:
    """Tell the GCS, until it has heard it."""
    body = msgspec.msgpack.encode(request)
    while True:
        try:
            reply = await asyncio.to_thread(joined_core().peers.gcs_call, "ChangeSubmission", body)
            return msgspec.msgpack.decode(reply, type=SubmissionChanged)
        except NbrayError as error:
            print(f"The GCS was not told: {error}", file=sys.stderr)
            await asyncio.sleep(_AGAIN_S)


def _environment(
    row: Submission, head: dict[str, str], sys_path: Sequence[str], session: str
) -> dict[str, str]:
    """The variables of the entrypoint: this worker's, which has the runtime environment's."""
    metadata = {
        "job_submission_id": row.submission_id, "job_name": row.submission_id, **row.metadata
    }  # fmt: skip
    config = json.dumps({"runtime_env": json.loads(row.runtime_env), "metadata": metadata})
    folders = [*sys_path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    programs = [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    return {
        **os.environ, **head, OWN_SESSION: session, "PYTHONUNBUFFERED": "1",
        JOB_CONFIG: config, RAY_JOB_CONFIG: config,
        "PYTHONPATH": os.pathsep.join(folder for folder in folders if folder),
        "PATH": os.pathsep.join(programs),
    }  # fmt: skip
