"""Logs of all nodes: ``list_logs()``, ``get_log(...)``."""

from __future__ import annotations

import time
from collections.abc import Iterator

from nbray.state import queries as q
from nbray.util.state.api import (
    ask,
    get_actor,
    get_task,
    list_nodes,
    list_workers,
)
from nbray.util.state.selecting import MAX_LIMIT, StateApiException
from nbray.wire.state_messages import LogPart

_FOLLOW_S = 0.2
_KINDS = {"gcs": "gcs_server", "raylet": "raylet", "dashboard": "dashboard"}


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: int = 30,
) -> dict[str, list[str]]:
    """The names of a node's logs, by kind: ``worker_out``, ``worker_err``, ``raylet`` and so on.

    Args:
        address: as for `list_nodes`.
        node_id: which node; the head by default.
        node_ip: the same by its address.
        glob_filter: only names that match, as ``worker-*``.
        timeout: seconds.

    Raises:
        StateApiException: there is no such node, or it does not answer.
    """
    node = _node(address, node_id, node_ip, timeout)
    names = ask(q.logs(node, glob_filter or "*"), address, timeout)
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(_kind(name), []).append(name)
    return kinds


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = 1000,
    timeout: int = 30,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str = "strict",
) -> Iterator[str] | Iterator[bytes]:
    """The last lines of a log, in pieces.

    Args:
        address: as for `list_nodes`.
        node_id: the node of ``filename`` or ``pid``; the head by default.
        node_ip: the same by its address.
        filename: the log's name, as `list_logs` gives it.
        actor_id: the log of that actor's process.
        task_id: the log of the worker that ran that task.
        pid: the log of that worker.
        follow: go on with what is written later, for ever.
        tail: how many lines; -1: all.
        timeout: seconds that the cluster has for each answer.
        suffix: of a worker, ``out`` or ``err``.
        encoding: of the text; None gives bytes.
        errors: what `bytes.decode` does with what is no such text.

    Raises:
        StateApiException: what is asked for is not there, or nothing says what is.
    """
    if suffix not in ("out", "err"):
        raise StateApiException(f"A worker's logs are 'out' and 'err'; there is no {suffix!r}.")
    node, name = _find(address, node_id, node_ip, filename, actor_id, task_id, pid, suffix, timeout)
    parts = _parts(address, node, name, follow, tail, timeout)
    if encoding is None:
        return parts
    return (part.decode(encoding, errors) for part in parts)


def _parts(
    address: str | None, node: str, name: str, follow: bool, tail: int, timeout: float
) -> Iterator[bytes]:
    offset = 0 if tail < 0 else -1
    while True:
        part: LogPart = ask(q.log(node, name, offset, max(tail, 0)), address, timeout)
        if part.missing:
            raise StateApiException(f"Node {node[:12]} has no log {name!r}; list_logs() has all.")
        if part.data:
            yield part.data
        elif not follow:
            return
        else:
            time.sleep(_FOLLOW_S)
        offset = part.offset


def _find(
    address: str | None, node_id: str | None, node_ip: str | None, filename: str | None,
    actor_id: str | None, task_id: str | None, pid: int | None, suffix: str, timeout: int,
) -> tuple[str, str]:  # fmt: skip
    """The node and the name of the log that is meant."""
    if filename is not None:
        return _node(address, node_id, node_ip, timeout), filename
    worker_id: str | None = None
    node: str | None = None
    if actor_id is not None:
        actor = get_actor(actor_id, address, timeout)
        if actor is not None:
            worker_id, node = actor.worker_id, actor.node_id
    elif task_id is not None:
        found = get_task(task_id, address, timeout)
        task = found[-1] if isinstance(found, list) else found
        if task is not None:
            worker_id, node = task.worker_id, task.node_id
    elif pid is not None:
        node = _node(address, node_id, node_ip, timeout)
        workers = list_workers(address, [("node_id", "=", node)], MAX_LIMIT, timeout, True, False)
        worker_id = next((row.worker_id for row in workers if row.pid == pid), None)
    else:
        raise StateApiException(
            "Which log? Give one of filename, actor_id, task_id and pid; list_logs() has the names."
        )
    if not worker_id or not node:
        what = f"actor {actor_id}" if actor_id else f"task {task_id}" if task_id else f"pid {pid}"
        raise StateApiException(f"No worker is known for {what}.")
    return node, f"worker-{worker_id[:12]}.{suffix}"


def _node(address: str | None, node_id: str | None, node_ip: str | None, timeout: int) -> str:
    nodes = [row for row in list_nodes(address, None, MAX_LIMIT, timeout) if row.state == "ALIVE"]
    for row in nodes:
        if row.node_id == node_id or (node_id is None and row.node_ip == node_ip):
            return row.node_id
    if node_id is None and node_ip is None:
        for row in nodes:
            if row.is_head_node:
                return row.node_id
    raise StateApiException(f"No node that is alive has the {_named(node_id, node_ip)}.")


def _named(node_id: str | None, node_ip: str | None) -> str:
    return f"id {node_id}" if node_id else f"address {node_ip}" if node_ip else "head's part"


def _kind(name: str) -> str:
    stem, _, suffix = name.partition(".")
    if stem.startswith("worker-"):
        return f"worker_{suffix}"
    return _KINDS.get(stem, "internal")
