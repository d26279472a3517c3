"""Nodes from a list of machines that are reached by ssh: the pool of ``provider.worker_ips``.

Which machine is which instance stands in a file below the head's session; what a machine has, it
says itself. A node is set up as `nbray up` does it, but from the head, with the key that `nbray up`
has made there (``auth.ssh_private_key`` of the file that the head was given); files that are copied
come from the place on the head where `nbray up` has put them. A set-up that was cut off has failed.

Machines whose nodes `nbray up` has started itself are instances too, named after the machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nbray.autoscaler.providers.base import (
    INSTANCE_LABEL,
    TYPE_LABEL,
    Cluster,
    Instance,
    ProviderError,
    Stage,
    Wanted,
)
from nbray.machines import certificates, scripts
from nbray.machines.cluster import Cluster as Machines
from nbray.machines.cluster_file import ClusterFileError, check
from nbray.machines.hosts import Host, HostError
from nbray.machines.provider import provider_of
from nbray.machines.scaling import TYPE, may_be_on
from nbray.machines.starting import POOL, Assigned, starting_in

logger = logging.getLogger(__name__)

_QUICK_S = 30.0
_LINES = 200
_LOG_BYTES = 8192


@dataclass
class _Work:
    """The set-up of one instance, while it goes on or after it failed."""

    task: asyncio.Task[None]
    stage: str = "begins"
    failed: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))


class LocalProvider:
    """See the head of this module."""

    def __init__(self, cluster: Cluster) -> None:
        """Read the file; no machine is asked.

        Raises:
            ProviderError: the file is none of `nbray up`.
        """
        self._cluster = cluster
        try:
            wanted = check(_as_of_the_head(cluster.document))
        except ClusterFileError as error:
            raise ProviderError(f"{error}") from error
        self._wanted = wanted
        self._machines: Machines | None = None
        self._file = Path(cluster.session) / POOL
        head = provider_of(wanted).head().name
        self._record = Path(scripts.record_path(wanted.cluster_name, head)).expanduser()
        self._assigned = self._read()
        self._work: dict[str, _Work] = {}
        self._pool = list(wanted.provider.worker_ips)

    # --- the file --------------------

    def _read(self) -> dict[str, Assigned]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Assigned])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise ProviderError(f"{self._file} cannot be read: {error}") from error

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        try:
            new.write_bytes(msgspec.json.encode(self._assigned))
            os.replace(new, self._file)
        except OSError as error:
            raise ProviderError(f"{self._file} cannot be written: {error}") from error

    async def _host(self, name: str) -> Host:
        """A machine of the pool.

        Raises:
            ProviderError: there is no place for keys and logs here, or it is none of the pool's.
        """
        try:
            if self._machines is None:
                self._machines = await Machines.of(self._wanted, all_workers=True)
        except (OSError, ClusterFileError) as error:
            raise ProviderError(str(error)) from error
        for host in self._machines.hosts[1:]:
            if host.machine.name == name:
                return host
        raise ProviderError(f"{name} is none of worker_ips any more.")

    # --- the Protocol --------------------

    async def create(self, wanted: Sequence[Wanted]) -> Mapping[str, str]:
        """Give each a machine that is free, and begin to set it up."""
        refused: dict[str, str] = {}
        self._give_way(wanted, self._starting())
        new = [one for one in wanted if one.id not in self._assigned]
        taken = {one.host for one in self._assigned.values()}
        free = [name for name in self._pool if name not in taken]
        hosts = [await self._host(name) for name in free] if new else []
        answers = await asyncio.gather(*(host.ask() for host in hosts))
        silent = []
        for one in new:
            allowed = one.type.node_config.get("worker_ips") or self._pool
            for host, found in list(zip(hosts, answers, strict=True)):
                name = host.machine.name
                if name in taken or name not in allowed or found.runs:
                    continue
                if found.error:
                    silent.append(f"{name}: {found.error}")
                    continue
                taken.add(name)
                self._assigned[one.id] = Assigned(name, one.type.name)
                break
            else:
                because = "; ".join(dict.fromkeys(silent)) or "all of them have nodes"
                refused[one.id] = f"no machine of the pool is free ({because})"
        self._write()
        starting = self._starting()  # it has seen what was just written, or is seen here
        self._give_way(wanted, starting)
        for one in wanted:
            if one.id in self._assigned and one.id not in self._work:
                host = await self._host(self._assigned[one.id].host)
                self._begin(one, host)
        if starting and (refused or any(one.id not in self._assigned for one in wanted)):
            raise ProviderError(
                f"`nbray up` starts nodes on {', '.join(starting)}; others follow when it is done."
            )
        return refused

    def _starting(self) -> dict[str, str]:
        return starting_in(self._record, time.time())

    def _give_way(self, wanted: Sequence[Wanted], starting: Mapping[str, str]) -> None:
        """What was not begun and `nbray up` starts, is not this provider's to start."""
        for one in wanted:
            given = self._assigned.get(one.id)
            if given is not None and given.host in starting and one.id not in self._work:
                del self._assigned[one.id]
                self._write()

    def _begin(self, one: Wanted, host: Host) -> None:
        task = asyncio.get_running_loop().create_task(self._set_up(one, host))
        self._work[one.id] = _Work(task)

    async def list(self) -> Sequence[Instance]:
        """The machines that were given, and what they answer."""
        answers = await asyncio.gather(*(self._seen(id) for id in list(self._assigned)))
        found = [one for one in answers if one is not None]
        why = "`nbray up` starts it"
        return found + [
            Instance(id=id, type=TYPE, stage=Stage.STARTING, why=why, place=name, by_others=True)
            for name, id in self._starting().items()
        ]

    async def _seen(self, id: str) -> Instance | None:
        given = self._assigned.get(id)
        if given is None:
            return None
        work = self._work.get(id)
        stage, why = Stage.STARTING, ""
        if work is not None and work.failed:
            stage, why = Stage.ENDED, work.failed
        elif work is not None and not work.task.done():
            why = work.stage
        else:
            found = await (await self._host(given.host)).ask()
            ours = found.runs and found.instance in ("", id)
            stage = Stage.RUNNING if ours or found.error else Stage.ENDED
            why = found.error or ("" if ours else "its node has ended, or was not set up")
        return Instance(id=id, type=given.type, stage=stage, why=why, place=given.host)

    async def terminate(self, ids: Sequence[str]) -> None:
        """End their nodes; the machines stay, with what was set up there."""
        await asyncio.gather(*(self._end(id) for id in ids))
        self._write()

    async def _end(self, id: str) -> None:
        given = self._assigned.get(id)
        names = [given.host] if given is not None else started_by_up(id, self._pool)
        work = self._work.pop(id, None)
        if work is not None:
            work.task.cancel()
            await asyncio.wait([work.task])
        for name in names:
            try:
                await (await self._host(name)).stop(forget=False, only=id)
            except HostError as error:
                raise ProviderError(f"{name}: {error}") from error
        self._assigned.pop(id, None)

    async def logs(self, id: str) -> str:
        """What the commands on its machine have said."""
        work = self._work.get(id)
        return "" if work is None else "\n".join(work.lines)[-_LOG_BYTES:]

    async def close(self) -> None:
        """What is being set up is cut off."""
        for work in self._work.values():
            work.task.cancel()

    # --- setting up --------------------

    async def _set_up(self, one: Wanted, host: Host) -> None:
        try:
            await self._carry_out(one, host)
        except (HostError, ProviderError) as error:
            self._work[one.id].failed = f"{host.machine.name}: {error}"  # now it may be ended
            if isinstance(error, HostError):
                self._work[one.id].lines.extend(error.lines)
            logger.warning("%s", self._work[one.id].failed)

    async def _carry_out(self, one: Wanted, host: Host) -> None:
        work, wanted, machines = self._work[one.id], self._wanted, self._machines
        assert machines is not None
        host.on_line = work.lines.append
        work.stage = "copies files"
        await host.copy(wanted.file_mounts, wanted.rsync_exclude, wanted.rsync_filter)
        for command in wanted.initialization_commands:
            work.stage = f"runs {command}"
            await host.command("an initialization command", command, {}, inside=False)
        if host.container is not None:
            work.stage = "makes its container"
            text = host.container.make(host.record_path)
            await host.do("making its container", text, inside=False)
        for command in machines.setup_commands(host.machine):
            work.stage = f"runs {command}"
            await host.command("a set-up command", command, {})
        work.stage = "is handed the token"
        token = Path(self._cluster.token_file).read_bytes()
        await host.do(
            "handing it the token", scripts.keep_stdin(host.record, "token"), stdin=token,
            timeout_s=_QUICK_S,
        )  # fmt: skip
        address = self._cluster.address.rpartition(":")[0]
        labels = {**one.type.labels, INSTANCE_LABEL: one.id, TYPE_LABEL: one.type.name}
        exports = {
            "NBRAY_NODE_RECORD": host.record, "NBRAY_AUTH_TOKEN_PATH": f"{host.record}/token",
            "NBRAY_HEAD_IP": address, "RAY_HEAD_IP": address,
            "NBRAY_NODE_LABELS": shlex.quote(json.dumps(labels)),
            **certificates.exports(wanted.tls, host.record),
        }  # fmt: skip
        for command in machines.start_commands(host.machine):
            work.stage = f"runs {command}"
            await host.command("a start command", command, exports, may_be_cut=False)


def _as_of_the_head(document: Mapping[str, object]) -> dict[str, object]:
    """The file as it is to be read on the head: what is copied, was copied there before."""
    mounts = document.get("file_mounts")
    synced = document.get("cluster_synced_files")
    paths = [*(mounts if isinstance(mounts, dict) else ())]
    paths += synced if isinstance(synced, list) else []
    there = {path: os.path.expanduser(path) for path in paths}
    own = {"available_node_types", "head_node_type"}
    left = {key: value for key, value in document.items() if key not in own}
    return {**left, "file_mounts": there, "cluster_synced_files": []}


def started_by_up(id: str, pool: Sequence[str]) -> list[str]:
    """The machines where `nbray up` may have started that instance; of one, it is the node."""
    return [name for name in pool if may_be_on(id, name)]
