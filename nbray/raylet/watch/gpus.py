"""What the GPUs of a node do, as NVIDIA's own tool tells it, if the machine has that.

One process of ``nvidia-smi`` writes a line for each GPU again and again: to load the driver's
library into the raylet would let a driver that hangs hold up the node. It ends by itself when
nobody reads its pipe any more.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress

logger = logging.getLogger(__name__)

_TOOL = "nvidia-smi"
_EVERY_S = 5
_SILENT_S = 30.0
_PAUSE_S = 60.0
_MOST = 64
_MB = 1 << 20
_QUERY = "index,utilization.gpu,memory.used,memory.total"


class Gpus:
    """Knows the last figures of each GPU; none where there is no such tool."""

    def __init__(self) -> None:
        self._figures: dict[str, float] = {}

    def stats(self) -> dict[str, float]:
        """Of GPU N ``gpuN_percent``, ``gpuN_memory_used`` and ``gpuN_memory_total``; of all
        together the same as ``gpu_percent``, which is their mean, and so on.
        """
        found = dict(self._figures)
        for name in ("percent", "memory_used", "memory_total"):
            values = [value for key, value in found.items() if key.endswith(f"_{name}")]
            if values:
                found[f"gpu_{name}"] = sum(values) / (len(values) if name == "percent" else 1)
        return found

    async def run(self) -> None:
        """Look for ever; a tool that fails is tried again after a pause."""
        tool = shutil.which(_TOOL)
        while tool is not None:
            try:
                process = await asyncio.create_subprocess_exec(
                    tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", "-l",
                    str(_EVERY_S), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL,
                )  # fmt: skip
            except OSError as error:
                logger.warning("%s cannot be run now: %s", tool, error)
                await asyncio.sleep(_PAUSE_S)
                continue
            try:
                await self._read(process)
            finally:
                self._figures = {}
                with suppress(ProcessLookupError):
                    process.kill()
            logger.warning("%s ended or fell silent; GPUs are not watched for a while.", tool)
            await process.wait()
            await asyncio.sleep(_PAUSE_S)

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        with suppress(TimeoutError, ValueError):  # a line that is too long is none of its
            while line := await asyncio.wait_for(process.stdout.readline(), _SILENT_S):
                self._figures |= figures(line.decode("ascii", "replace"))


def figures(line: str) -> dict[str, float]:
    """What a line of the tool says; what a GPU does not tell (``[N/A]``) is left out."""
    index, *values = (word.strip() for word in line.split(","))
    if not index.isdecimal() or int(index) >= _MOST:
        return {}
    found: dict[str, float] = {}
    names = (("percent", 1), ("memory_used", _MB), ("memory_total", _MB))
    for (name, unit), value in zip(names, values, strict=False):
        if value.isdecimal():
            found[f"gpu{index}_{name}"] = float(int(value) * unit)
    return found
