"""What a process of this node does, for who profiles it: by py-spy, or by the process itself.

py-spy looks from outside, so it sees a process that stands still or holds the GIL, and costs the
process nothing; it has to be installed beside nbray, and the machine must let it look at other
processes. Where it cannot, the process is asked.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from nbray.raylet.watch.inquiries import Inquiries
from nbray.wire.state_messages import Profile, ProfileRequest
from nbray.wire.watching_messages import StacksTold, TellStacks

_ANSWER_S = 5.0
_PER_S = 100
_GENTLE_PER_S = 20
_MOST_STACKS = 5000
_LARGEST = 32 << 20


class Profiler:
    """Profiles the processes of a node."""

    def __init__(self, inquiries: Inquiries) -> None:
        self._inquiries = inquiries

    async def profile(self, request: ProfileRequest) -> Profile:
        """What the process does."""
        pid = self._inquiries.pid_of(request.worker_id)
        if pid is None:
            return Profile({}, "", "The process is not there any more.")
        why = ""
        if not request.memory and not request.working and (tool := py_spy()) is not None:
            try:
                counts = await (
                    _record(tool, pid, request.seconds) if request.seconds else _dump(tool, pid)
                )
                return Profile(dict(counts.most_common(_MOST_STACKS)), "py-spy")
            except OSError as error:
                why = f" (py-spy: {error})"
        return await self._ask(request, why)

    async def _ask(self, request: ProfileRequest, why: str) -> Profile:
        told: StacksTold | None = await self._inquiries.ask_one(
            request.worker_id,
            lambda number: TellStacks(
                number,
                request.seconds,
                _GENTLE_PER_S if request.working else _PER_S,
                request.memory,
                request.working,
            ),
            request.seconds + _ANSWER_S,
        )
        how = "memray, in the process" if request.memory else "the process itself"
        if told is None:
            return Profile({}, how, (
                "The process did not answer in time: it may be stopped, or hold the GIL. "
                f"py-spy, installed on its node, looks from outside{why}."
            ))  # fmt: skip
        return Profile(told.counts, how + why, told.error)


def py_spy() -> str | None:
    """Where py-spy is, beside this Python or on the path."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


async def _run(seconds: float, *command: str) -> bytes:
    """What a program prints.

    Raises:
        OSError: it failed, and how; or it did not end in time.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(seconds):
            out, error = await process.communicate()
    except TimeoutError:
        raise OSError("it did not end in time") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    if process.returncode:
        lines = error.decode(errors="replace").strip().splitlines() or ["it failed"]
        raise OSError(next((one for one in lines if "rror" in one), lines[-1])[:300])
    return out[:_LARGEST]


async def _dump(tool: str, pid: int) -> Counter[str]:
    found: list[dict[str, Any]] = json.loads(
        await _run(_ANSWER_S, tool, "dump", "--json", "--pid", str(pid))
    )
    counts: Counter[str] = Counter()
    for thread in found:
        name = str(thread.get("thread_name") or f"thread {thread.get('os_thread_id')}")
        frames = [_frame(frame) for frame in reversed(thread.get("frames", []))]
        counts[";".join([name.replace(";", ","), *frames])] += 1
    return counts


def _frame(frame: dict[str, Any]) -> str:
    text = f"{frame.get('name')} ({frame.get('filename')}:{frame.get('line')})"
    return text.replace(";", ",")


async def _record(tool: str, pid: int, seconds: float) -> Counter[str]:
    duration = str(max(1, round(seconds)))
    with tempfile.NamedTemporaryFile() as file:
        await _run(
            seconds + _ANSWER_S, tool, "record", "--pid", str(pid), "--duration", duration,
            "--rate", str(_PER_S), "--format", "raw", "--threads", "--idle", "--full-filenames",
            "--output", file.name,
        )  # fmt: skip
        text = file.read(_LARGEST).decode(errors="replace")
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, number = line.rpartition(" ")
        if stack and number.isdecimal():
            counts[stack] += int(number)
    return counts
