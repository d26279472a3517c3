"""sbatch, squeue and scancel, as they are run."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence

from nbray.slurm.queue import FORMAT, Row, rows
from nbray.slurm.script import without_overridden

_PATIENCE_S = 40.0
_IDS_AT_ONCE = 500
_ID = re.compile(r"(\d+)(?:;\S*)?", re.ASCII)


class SlurmError(RuntimeError):
    """A command of Slurm's failed; the text has its words.

    Attributes:
        refused: Slurm has answered, and will not do it.
    """

    def __init__(self, text: str, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


async def submit(script: str) -> str:
    """Submit a job; returns its id.

    Raises:
        SlurmError: it was refused; or it is not known whether it was taken.
    """
    said = await _run(["sbatch", "--parsable"], without_overridden(os.environ, script), script)
    for line in reversed(said.splitlines()):  # sites print words of their own before
        if found := _ID.fullmatch(line.strip()):
            return found[1]
    raise SlurmError(f"sbatch named no job: {said.strip()[:500]!r}")


async def jobs() -> list[Row]:
    """The jobs of this user, also those that have ended lately.

    Raises:
        SlurmError: Slurm does not answer.
    """
    words = ["squeue", "-h", "-a", "-r", "-t", "all", "-u", str(os.getuid()), "-o", FORMAT]
    return list(rows(await _run(words, without_overridden(os.environ, ""))))


async def cancel(ids: Sequence[str]) -> None:
    """End jobs; those that have ended are passed over.

    Raises:
        SlurmError: Slurm does not answer, or refuses.
    """
    variables = without_overridden(os.environ, "")
    for first in range(0, len(ids), _IDS_AT_ONCE):
        await _run(["scancel", "-Q", *ids[first : first + _IDS_AT_ONCE]], variables)


async def _run(words: Sequence[str], variables: Mapping[str, str], given: str = "") -> str:
    name = words[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *words, env=variables, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise SlurmError(
            f"{name} cannot be run here: {error.strerror}. A cluster with nodes from Slurm starts "
            "on a machine that has Slurm's commands, such as a login node."
        ) from error
    try:
        async with asyncio.timeout(_PATIENCE_S):
            out, err = await process.communicate(given.encode())
    except TimeoutError as error:
        raise SlurmError(f"{name} has not answered within {_PATIENCE_S:g} s.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = " ".join((err or out).decode(errors="replace").split())
        raise SlurmError(f"{name}: {said[:1000]}", refused=_is_refusal(said))
    return out.decode(errors="replace")


_UNREACHED = re.compile(
    r"timed out|unable to contact|connection (refused|reset)|communication|socket|try again|"
    r"temporarily|munge|backup controller|standby",
    re.IGNORECASE,
)


def _is_refusal(said: str) -> bool:
    """Whether Slurm itself has said no, and not a network."""
    return bool(said) and _UNREACHED.search(said) is None
