"""``nbray cluster-dump``: what a cluster knows and has written, in one archive for a report."""

from __future__ import annotations

import asyncio
import getpass
import io
import json
import platform
import tarfile
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import IO, Any

import click
import psutil

from nbray.cli.state import address_option, clear_errors, timeout_option
from nbray.cli.terminal import CliError, say
from nbray.common.session import known_sessions
from nbray.state import queries as q
from nbray.state.client import RpcError, StateClient, find_cluster
from nbray.state.submissions import Submissions
from nbray.state.text import size_text

_TASKS = 2000
_IN_MEMORY = 8 << 20
_TABLES: dict[str, q.Query[Any]] = {
    "nodes": q.NODES,
    "actors": q.ACTORS,
    "jobs": q.JOBS,
    "placement-groups": q.PLACEMENT_GROUPS,
    "demand": q.DEMAND,
    "failures": q.FAILURES,
    "task-totals": q.TASK_TOTALS,
}


class _Archive:
    """Files under one folder of a tar; ``missing`` has sentences on what is not there."""

    def __init__(self, tar: tarfile.TarFile, folder: str) -> None:
        self._tar = tar
        self._folder = folder
        self.missing: list[str] = []
        self.files = 0

    def add(self, name: str, content: IO[bytes], size: int) -> None:
        """One file; for its owner only, since logs may hold anything."""
        info = tarfile.TarInfo(f"{self._folder}/{name}")
        info.size, info.mtime, info.mode = size, int(time.time()), 0o600
        self._tar.addfile(info, content)
        self.files += 1

    def text(self, name: str, text: str) -> None:
        """One file with a text."""
        data = text.encode("utf-8", "replace")
        self.add(name, io.BytesIO(data), len(data))

    def rows(self, name: str, rows: Any) -> None:
        """One file with rows as JSON."""
        self.text(f"state/{name}.json", json.dumps(rows, indent=1, default=str))


@click.command("cluster-dump")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="The archive; nbray-dump-TIME.tar.gz by default.")  # fmt: skip
@click.option("-L", "--local", is_flag=True, help="Only the logs of this machine's sessions, also "
              "of clusters that do not answer.")  # fmt: skip
@click.option("--logs/--no-logs", default=True, help="The logs of all nodes.")
@click.option("--debug-state/--no-debug-state", "tables", default=True,
              help="Nodes, actors, jobs, tasks, what waits and what failed.")  # fmt: skip
@click.option("--pip/--no-pip", default=True, help="What is installed here.")
@click.option("--processes/--no-processes", default=True, help="Your processes here.")
@click.option("--log-bytes", type=click.IntRange(min=1), default=10 << 20, show_default=True,
              help="Of each log, its last so many bytes.")  # fmt: skip
@timeout_option
@address_option
@clear_errors
def cluster_dump(
    output: Path | None, local: bool, logs: bool, tables: bool, pip: bool, processes: bool,
    log_bytes: int, timeout: int, address: str | None,
) -> None:  # fmt: skip
    """Put what a cluster knows and has written into one archive, as for a report of a fault.

    It has no token, key or certificate. Logs and arguments of programs may hold secrets of yours:
    look before you give it away.
    """
    name = time.strftime("nbray-dump-%Y-%m-%d_%H-%M-%S")
    path = output or Path(f"{name}.tar.gz")
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(unfinished, "w:gz") as tar:
            unfinished.chmod(0o600)
            archive = _Archive(tar, name)
            if pip:
                archive.text("packages.txt", _packages())
            if processes:
                archive.text("processes.txt", _processes())
            if local:
                _add_sessions(archive, log_bytes)
            else:
                cluster, token = find_cluster(address)
                asyncio.run(_add_cluster(archive, cluster, token, tables, logs, log_bytes, timeout))
            if archive.missing:
                archive.text("missing.txt", "\n".join(archive.missing) + "\n")
        unfinished.rename(path)
    except RpcError as error:
        raise CliError(f"{error} --local takes the logs of this machine only.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    for text in archive.missing:
        say(f"Not complete: {text}", err=True)
    say(f"{archive.files} files, {size_text(path.stat().st_size)}, are in {path}.")


async def _add_cluster(
    archive: _Archive, cluster: str, token: bytes, tables: bool, logs: bool, log_bytes: int,
    timeout: float,
) -> None:  # fmt: skip
    async with StateClient(cluster, token) as client:
        nodes = await client.ask(q.NODES, timeout)
        if tables:
            await _add_tables(archive, client, timeout)
            submissions = Submissions(cluster, token)
            try:
                rows = [row for row in await submissions.all()]
            finally:
                await submissions.close()
            archive.rows("submissions", [
                {"id": row.submission_id, "state": row.state, "entrypoint": row.entrypoint,
                 "message": row.message} for row in rows
            ])  # fmt: skip
        for node in nodes if logs else ():
            short = node.node_id[:8]
            if node.state != "ALIVE":
                archive.missing.append(f"node {short} is dead: its logs went with it")
                continue
            try:
                await _add_logs(archive, client, node.node_id, log_bytes, timeout)
            except RpcError as error:
                archive.missing.append(f"node {short} did not give all its logs: {error}")


async def _add_tables(archive: _Archive, client: StateClient, timeout: float) -> None:
    for name, query in _TABLES.items():
        found = await client.ask(query, timeout)
        rows = [asdict(row) for row in found] if isinstance(found, list) else asdict(found)
        archive.rows(name, rows)
    workers, unreachable = await client.ask(q.WORKERS, timeout)
    archive.rows("workers", [asdict(row) for row in workers])
    archive.missing += [f"node {node[:8]} did not tell its workers" for node in unreachable]
    tasks = await client.ask(q.tasks(_TASKS), timeout)
    archive.rows("tasks", [asdict(row) for row in tasks.rows])
    archive.missing += [f"{text} (tasks)" for text in tasks.missing]


async def _add_logs(
    archive: _Archive, client: StateClient, node_id: str, log_bytes: int, timeout: float
) -> None:
    for name in await client.ask(q.logs(node_id, "*"), timeout):
        last = await client.ask(q.log(node_id, name, -1, 1), timeout)
        place, end = max(0, last.end - log_bytes), last.end
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as kept:
            while place < end:
                part = await client.ask(q.log(node_id, name, place, 0), timeout)
                if not part.data:
                    break
                kept.write(part.data)
                place = part.offset
            size = kept.tell()
            kept.seek(0)
            archive.add(f"logs/{node_id[:8]}/{Path(name).name}", kept, size)


def _add_sessions(archive: _Archive, log_bytes: int) -> None:
    """The logs of all sessions of this user here; never what else is in their folders."""
    for session, _info in known_sessions():
        for path in sorted(session.log_path("x").parent.iterdir()):
            try:
                with path.open("rb") as file:
                    size = min(path.stat().st_size, log_bytes)
                    file.seek(-size, io.SEEK_END)
                    data = file.read(size)
            except OSError as error:
                archive.missing.append(f"{path}: {error}")
                continue
            archive.add(f"logs/{session.path.name}/{path.name}", io.BytesIO(data), len(data))


def _packages() -> str:
    lines = sorted({f"{one.name}=={one.version}" for one in distributions()})
    return "\n".join([f"# Python {platform.python_version()} on {platform.platform()}", *lines, ""])


def _processes() -> str:
    me = getpass.getuser()
    lines = ["pid ppid status rss_mb cpu_s command"]
    fields = ["pid", "ppid", "status", "memory_info", "cpu_times", "cmdline", "username"]
    for process in psutil.process_iter(fields):
        row = process.info
        if row["username"] != me or not row["cmdline"]:
            continue
        rss = (row["memory_info"].rss if row["memory_info"] else 0) / 1e6
        used = sum(row["cpu_times"][:2]) if row["cpu_times"] else 0.0
        command = " ".join(row["cmdline"])[:300]
        lines.append(f"{row['pid']} {row['ppid']} {row['status']} {rss:.0f} {used:.1f} {command}")
    return "\n".join(lines) + "\n"
