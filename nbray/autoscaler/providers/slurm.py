"""Nodes from Slurm: each is a batch job.

A job's name has cluster, type and id of its instance, so that squeue alone tells what there is.
Jobs are submitted one by one, at most one a second, since many at once are what keeps a controller
from its work; those that wait for their turn are listed as waiting. What a job waits for is Slurm's
word for it, and what that means.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from nbray.autoscaler.providers.base import (
    Cluster,
    Instance,
    ProviderError,
    Stage,
    Wanted,
)
from nbray.common.process import spawn
from nbray.common.session import Session
from nbray.launcher.found import node_of
from nbray.slurm import commands
from nbray.slurm.commands import SlurmError
from nbray.slurm.homes import ClusterHome, cluster_homes, instance_of, job_name
from nbray.slurm.leaving import cancel
from nbray.slurm.queue import Row, Standing, explain, standing
from nbray.slurm.script import Job, JobSettings, job_script, read_settings

logger = logging.getLogger(__name__)

_BETWEEN_JOBS_S = 1.0
_CREATE_S = 40.0
_LOG_BYTES = 8192
_STAGES = {
    Standing.WAITS: Stage.WAITING,
    Standing.STARTS: Stage.STARTING,
    Standing.RUNS: Stage.RUNNING,
    Standing.OVER: Stage.ENDED,
}


class SlurmProvider:
    """Nodes that are jobs of this user."""

    def __init__(self, cluster: Cluster) -> None:
        """Prepare for a cluster; nothing is asked of Slurm.

        Raises:
            ValueError: the settings of jobs cannot be. OSError: the home takes no file.
        """
        self._cluster = cluster
        section = dict(cluster.document.get("provider") or {})
        section.pop("type", None)
        self._settings = {
            name: read_settings(section, type.node_config) for name, type in cluster.types.items()
        }
        self._general = read_settings(section)
        self._home = ClusterHome(cluster.name)
        other = self._home.holder
        if other is not None and str(other.session) != cluster.session and other.runs_here(_runs):
            raise ValueError(
                f"another head of cluster {cluster.name} runs here ({other.session}): jobs are "
                "told apart by the cluster's name, so give this one another cluster_name"
            )
        self._home.hold(Path(cluster.token_file).read_bytes(), cluster.session)
        self._waiting: dict[str, Wanted] = {}
        self._refused: dict[str, tuple[str, str]] = {}
        self._terminated: set[str] = set()
        self._submitting: asyncio.Task[None] | None = None
        self._failed: SlurmError | None = None
        self._last_job = 0.0
        self._begun = False

    async def create(self, wanted: Sequence[Wanted]) -> Mapping[str, str]:
        """See `Provider.create`."""
        there = {found[1] for row in await self._rows() if (found := self._instance(row))}
        for one in wanted:
            if one.id not in there:
                self._waiting.setdefault(one.id, one)
        if self._waiting and self._submitting is None:
            self._failed = None
            self._submitting = asyncio.create_task(self._submit_all())
        if self._submitting is not None:
            await asyncio.wait([self._submitting], timeout=_CREATE_S)
        if self._failed is not None:
            raise ProviderError(str(self._failed)) from self._failed
        refused = {one.id: self._refused.pop(one.id) for one in wanted if one.id in self._refused}
        return {id: why for id, (_, why) in refused.items()}

    async def _submit_all(self) -> None:
        """Submit what waits, in its order, as fast as Slurm is to be asked."""
        try:
            while self._waiting:
                await asyncio.sleep(self._last_job + _BETWEEN_JOBS_S - time.monotonic())
                one = next(iter(self._waiting.values()), None)
                if one is None:
                    return  # what waited was terminated meanwhile
                self._last_job = time.monotonic()
                try:
                    job = await commands.submit(self._script(one))
                    logger.info("Instance %s is Slurm job %s", one.id, job)
                    if self._waiting.pop(one.id, None) is None:
                        await commands.cancel([job])  # it was terminated meanwhile
                except SlurmError as error:
                    if not error.refused:
                        raise
                    self._refuse(one.type.name, str(error))
        except (SlurmError, OSError) as error:
            self._waiting.clear()  # whether one was taken, `list` tells
            self._failed = error if isinstance(error, SlurmError) else SlurmError(str(error))
        finally:
            self._submitting = None

    def _refuse(self, type: str, why: str) -> None:
        """Slurm takes no job of a type: also those behind are not asked for."""
        for one in [one for one in self._waiting.values() if one.type.name == type]:
            del self._waiting[one.id]
            self._refused[one.id] = (type, why)

    def _script(self, one: Wanted) -> str:
        settings = self._settings_of(one.type.name)
        log = self._home.logs(settings.log_directory) / self._home.log_name(one.id)
        job = Job(
            name=job_name(self._cluster.name, one.type.name, one.id),
            output=str(log).replace("%", "%%"), token_file=str(self._home.token),
            words=one.start_words(self._cluster.address), resources=one.type.resources,
        )  # fmt: skip
        return job_script(settings, job)

    def _settings_of(self, type: str) -> JobSettings:
        return self._settings.get(type, self._general)

    async def list(self) -> Sequence[Instance]:
        """See `Provider.list`."""
        now = time.time()
        rows = await self._rows()
        await self._begin()
        found: dict[str, Instance] = {}
        for row in sorted(rows, key=_in_doubt_last):
            if (named := self._instance(row)) is not None:
                type, id = named
                stands = standing(row.state)
                if id in self._terminated and stands is Standing.OVER:
                    continue
                end = row.left_s if stands is Standing.RUNS else None
                found[id] = Instance(
                    id=id, type=type, stage=_STAGES[stands], why=explain(row),
                    place=f"Slurm job {row.id}", ends=None if end is None else now + end,
                )  # fmt: skip
        for id, one in self._waiting.items():
            found.setdefault(id, Instance(
                id=id, type=one.type.name, stage=Stage.WAITING,
                why="it will be submitted to Slurm, which gets one job a second",
            ))  # fmt: skip
        for id, (type, why) in self._refused.items():
            found.setdefault(id, Instance(id=id, type=type, stage=Stage.ENDED, why=why))
        return list(found.values())

    async def _rows(self) -> Sequence[Row]:
        try:
            return await commands.jobs()
        except SlurmError as error:
            raise ProviderError(str(error)) from error

    def _instance(self, row: Row) -> tuple[str, str] | None:
        return instance_of(row.name, self._cluster.name)

    async def _begin(self) -> None:
        """Once: see to it that no job outlives its head, here and of clusters before."""
        if self._begun:
            return
        self._begun = True
        self._start_guard()
        for home in cluster_homes():
            if home.name == self._cluster.name or not home.is_orphan(_runs):
                continue
            try:
                count = await cancel(home)
            except SlurmError as error:
                raise ProviderError(str(error)) from error
            logger.info("Cluster %s has gone; %d of its jobs were cancelled", home.name, count)

    def _start_guard(self) -> None:
        guard = spawn(
            "nbray.autoscaler.providers.slurm_guard",
            ["--name", self._cluster.name, "--session-dir", self._cluster.session],
            self._home.path / "guard.log", fate_shared=False,
        )  # fmt: skip
        guard.do_not_wait()

    async def terminate(self, ids: Sequence[str]) -> None:
        """See `Provider.terminate`."""
        named = set(ids)
        for id in named:
            self._waiting.pop(id, None)
            self._refused.pop(id, None)
        rows = [
            (row, found[1]) for row in await self._rows() if (found := self._instance(row))
        ]  # fmt: skip
        await self._cancel([
            row.id for row, id in rows
            if id in named and standing(row.state) is not Standing.OVER
        ])  # fmt: skip
        self._terminated = (self._terminated | named) & {id for _, id in rows}

    async def _cancel(self, jobs: Sequence[str]) -> None:
        try:
            await commands.cancel(jobs)
        except SlurmError as error:
            raise ProviderError(str(error)) from error

    async def logs(self, id: str) -> str:
        """See `Provider.logs`."""
        folders = {settings.log_directory for settings in self._settings.values()}
        for folder in folders or {None}:
            path = self._home.logs(folder) / self._home.log_name(id)
            with suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - _LOG_BYTES))
                return file.read(_LOG_BYTES).decode(errors="replace")
        return ""

    async def close(self) -> None:
        """See `Provider.close`."""
        if self._submitting is not None:
            self._submitting.cancel()
            await asyncio.wait([self._submitting])


def _runs(session: Path) -> bool:
    return session.exists() and bool(node_of(Session(session)).processes)


def _in_doubt_last(row: Row) -> bool:
    """Of two jobs of one name, which only a lost answer makes, the one that lives counts."""
    return standing(row.state) is not Standing.OVER
