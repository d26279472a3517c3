"""``nbray stack``: what every process of a cluster is doing, as Python's call stacks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click

from nbray.cli.state import address_option, clear_errors
from nbray.cli.terminal import CliError, say
from nbray.state import queries as q
from nbray.state.client import RpcError, StateClient, find_cluster
from nbray.state.rows import ActorState, WorkerState
from nbray.state.short_ids import SHORTEST, full_id

_AT_ONCE = 16
_ANSWER_S = 25.0


@click.command()
@click.argument("process", required=False)
@click.option("--node-id", help="Only those of this node.")
@click.option("--idle", is_flag=True, help="Also workers that have nothing to do.")
@address_option
@clear_errors
def stack(process: str | None, node_id: str | None, idle: bool, address: str | None) -> None:
    """Print the call stacks of the workers and drivers of a cluster, on all nodes.

    PROCESS is a pid, a worker's id, or an actor's name or id; ids may be written as they begin.
    """
    cluster, token = find_cluster(address)

    async def ask() -> tuple[list[WorkerState], list[str], list[str]]:
        async with StateClient(cluster, token) as client:
            workers, unreachable = await client.ask(q.WORKERS)
            living = [row for row in workers if row.is_alive]
            if process is not None:
                chosen = _chosen(living, await client.ask(q.ACTORS), process)
            else:
                chosen = [row for row in living if idle or row.activity != "IDLE"]
            if node_id is not None:
                chosen = [row for row in chosen if row.node_id.startswith(node_id.lower())]
            few = asyncio.Semaphore(_AT_ONCE)

            async def one(row: WorkerState) -> str:
                async with few:
                    try:
                        query = q.profile(row.node_id, row.worker_id, 0.0, False)
                        found = await client.ask(query, _ANSWER_S)
                    except RpcError as error:
                        return f"It did not tell: {error}"
                return found.error or _text(found.counts)

            return chosen, list(await asyncio.gather(*map(one, chosen))), unreachable

    try:
        rows, stacks, unreachable = asyncio.run(ask())
    except RpcError as error:
        raise CliError(str(error)) from error
    for row, text in zip(rows, stacks, strict=True):
        kind = row.worker_type.lower()
        say(f"{kind} pid {row.pid} on {row.ip}, node {row.node_id[:8]}, {row.activity.lower()}:")
        say(text + "\n")
    if not rows:
        say("Nothing runs." if process is None else f"No process is {process!r}.")
    for missing in unreachable:
        say(f"Not complete: node {missing[:8]} did not answer.")


def _chosen(living: list[WorkerState], actors: list[ActorState], word: str) -> list[WorkerState]:
    by_pid = [row for row in living if word.isdecimal() and row.pid == int(word)]
    if by_pid:
        return by_pid
    named = {actor.actor_id for actor in actors if actor.name == word}
    if not named and len(word) >= SHORTEST:
        worker = full_id(word.lower(), (row.worker_id for row in living))
        if worker is not None:
            return [row for row in living if row.worker_id == worker]
        named = {full_id(word.lower(), (actor.actor_id for actor in actors)) or ""}
    return [row for row in living if row.actor_id in named]


def _text(stacks: Iterable[str]) -> str:
    """Threads with their frames, the outermost first, as in a traceback."""
    lines = []
    for stack in stacks:
        thread, *frames = stack.split(";")
        lines += [f"  {thread}", *(f"    {frame}" for frame in frames)]
    return "\n".join(lines)
