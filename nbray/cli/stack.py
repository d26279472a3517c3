"""``nbray stack`` and ``nbray debug``: where the processes of a cluster are, as Python's stacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import click

from nbray.cli.state import address_option, clear_errors
from nbray.cli.terminal import CliError, say
from nbray.state import queries as q
from nbray.state.client import RpcError, StateClient, find_cluster
from nbray.state.rows import ActorState, WorkerState
from nbray.state.short_ids import SHORTEST, full_id

_AT_ONCE = 16
_ANSWER_S = 25.0
_DEBUGGERS = ("stops.py", "remote_pdb.py", "pdb.py", "bdb.py")


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

    def choose(living: list[WorkerState], actors: list[ActorState]) -> list[WorkerState]:
        if process is not None:
            chosen = _chosen(living, actors, process)
        else:
            chosen = [row for row in living if idle or row.activity != "IDLE"]
        if node_id is not None:
            chosen = [row for row in chosen if row.node_id.startswith(node_id.lower())]
        return chosen

    looked, unreachable = _look(address, choose)
    for row, found in looked:
        say(f"{_who(row)}, {row.activity.lower()}:")
        say((found if isinstance(found, str) else _text(found)) + "\n")
    if not looked:
        say("Nothing runs." if process is None else f"No process is {process!r}.")
    for missing in unreachable:
        say(f"Not complete: node {missing[:8]} did not answer.")


@click.command()
@address_option
@clear_errors
def debug(address: str | None) -> None:
    """List the tasks that stand in a debugger, and where, as at `breakpoint()`.

    Who submitted such a task answers it: in a notebook the cell asks, and %nbray debug opens what
    failed. This command shows where they are; nbray stack shows the frames.
    """
    looked, unreachable = _look(address, lambda living, _actors: living)
    stopped = 0
    for row, found in looked:
        if isinstance(found, str):
            say(f"{_who(row)} did not tell: {found}", err=True)
            continue
        for frame in filter(None, map(debugged_at, found)):
            stopped += 1
            say(f"{_who(row)} stands in a debugger at {frame}")
    if not stopped:
        say("No task stands in a debugger.")
    for missing in unreachable:
        say(f"Not complete: node {missing[:8]} did not answer.", err=True)


def debugged_at(stack: str) -> str:
    """The frame at which a debugger has stopped a thread; nothing if none has."""
    frames = stack.split(";")[1:]
    for number, frame in enumerate(frames):
        file = frame.rpartition("(")[2].rpartition(":")[0].rpartition("/")[2]
        if file in _DEBUGGERS and number:
            return frames[number - 1]
    return ""


def _who(row: WorkerState) -> str:
    return f"{row.worker_type.lower()} pid {row.pid} on {row.ip}, node {row.node_id[:8]}"


def _look(
    address: str | None, choose: Callable[[list[WorkerState], list[ActorState]], list[WorkerState]]
) -> tuple[list[tuple[WorkerState, Iterable[str] | str]], list[str]]:
    """Chosen processes with their stacks, or why there are none; and nodes that did not answer."""
    cluster, token = find_cluster(address)

    async def ask() -> tuple[list[tuple[WorkerState, Iterable[str] | str]], list[str]]:
        async with StateClient(cluster, token) as client:
            workers, unreachable = await client.ask(q.WORKERS)
            living = [row for row in workers if row.is_alive]
            chosen = choose(living, await client.ask(q.ACTORS))
            few = asyncio.Semaphore(_AT_ONCE)

            async def one(row: WorkerState) -> tuple[WorkerState, Iterable[str] | str]:
                async with few:
                    try:
                        query = q.profile(row.node_id, row.worker_id, 0.0, False)
                        found = await client.ask(query, _ANSWER_S)
                    except RpcError as error:
                        return row, f"It did not tell: {error}"
                return row, found.error or list(found.counts)

            return list(await asyncio.gather(*map(one, chosen))), unreachable

    try:
        return asyncio.run(ask())
    except RpcError as error:
        raise CliError(str(error)) from error


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
