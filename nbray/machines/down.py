"""Ending a cluster: its nodes on every machine, and nothing else there."""

from __future__ import annotations

import asyncio

from nbray.machines.board import Board, Outcome
from nbray.machines.cluster import Cluster
from nbray.machines.hosts import Host, HostError
from nbray.machines.plan import Machine
from nbray.machines.scaling import HELD, hold, left_by, may_grow
from nbray.machines.scripts import note
from nbray.machines.up import refuse_second_head, role_of

_LEAVE_S = 120.0
_QUICK_S = 30.0


async def down(
    cluster: Cluster, board: Board, *, workers_only: bool = False, keep_workers: int | None = None
) -> list[Outcome]:
    """End the nodes of a cluster, the head's last; of one that may grow, first.

    Else its autoscaler would start anew at once what there is to be at least. Where only workers
    are to end, it lets them go itself, and starts none until the next `up`.

    Args:
        cluster: with all workers that the file names; those that only the head knows are ended too.
        board: shows what happens.
        workers_only: the head goes on.
        keep_workers: so many workers go on, and the head.

    Returns:
        One for each machine that was to end.
    """
    answers = await asyncio.gather(*(host.ask() for host in cluster.hosts))
    refuse_second_head(cluster, answers[0])
    of_head: list[Outcome] = []
    whole = not workers_only and keep_workers is None
    names = answers[0].hosts
    jobs = cluster.wanted.autoscaling is not None
    if whole and may_grow(cluster.wanted):
        head = answers[0]
        of_head = [await _end(cluster.head, head.error, head.is_empty, board, jobs)]
        answers = await asyncio.gather(*(host.ask() for host in cluster.hosts))
    elif answers[0].scaling and answers[0].runs:  # whatever the file says by now
        # Its autoscaler knows best who can go, and would start anew what is ended behind its back.
        return [await _shrink(cluster.head, "none" if workers_only else "least", board)]
    known = {host.machine.name for host in cluster.hosts}
    hosts = list(zip(cluster.hosts[1:], answers[1:], strict=True))
    for name in names:
        if name not in known:
            host = cluster.host(Machine(name))
            hosts.append((host, await host.ask()))
    running = [host for host, found in hosts if found.runs]
    kept = {host.machine.name for host in running[: keep_workers or 0]}
    outcomes = list(
        await asyncio.gather(
            *(
                _end(host, found.error, found.is_empty, board)
                for host, found in hosts
                if host.machine.name not in kept
            )
        )
    )
    if whole and not of_head:
        head = answers[0]
        of_head = [await _end(cluster.head, head.error, head.is_empty, board)]
    return of_head + outcomes


async def _shrink(head: Host, bounds: str, board: Board) -> Outcome:
    """Let workers go until the next `up`."""
    name = head.machine.name
    board.stage(name, "head", "its workers end what runs there, and leave")
    try:
        await head.do("noting it", note(head.record, "scaling", HELD), timeout_s=_QUICK_S)
        await hold(head, bounds, _LEAVE_S)
    except HostError as failed:
        took = board.done(name, "failed")
        return Outcome(name, "head", "failed", str(failed), took, failed)
    return Outcome(name, "head", "goes on", left_by(bounds), board.done(name, "goes on"))


async def _end(host: Host, error: str, is_empty: bool, board: Board, jobs: bool = False) -> Outcome:
    machine = host.machine
    role = role_of(machine)
    if is_empty and not error:
        return Outcome(machine.name, role, "had no node")
    board.stage(machine.name, role, "end its node")
    try:
        if error:
            raise HostError("asking what it has", error)
        await host.stop(forget=True, jobs=jobs)
    except HostError as failed:
        took = board.done(machine.name, "failed")
        return Outcome(machine.name, role, "failed", str(failed), took, failed)
    return Outcome(machine.name, role, "ended", "", board.done(machine.name, "ended"))
