"""Logs of all nodes: ``list_logs()``, ``get_log(...)``."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nbray.common.text import check_text
from nbray.state import queries as q
from nbray.state.asking import ask
from nbray.state.details import get_actor, get_task, get_worker
from nbray.state.rows import WorkerState
from nbray.state.selecting import StateApiException
from nbray.state.short_ids import SHORTEST, full_id
from nbray.state.submissions import ROWS, log_name
from nbray.wire.state_messages import LogPart

FOLLOW_S = 0.2
"""How often who follows a log looks whether there is more."""

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

    Returns:
        Names by kind.

    Raises:
        StateApiException: there is no such node, or it does not answer.

    Examples:
        >>> from nbray.util.state import list_logs
        >>> "raylet" in list_logs()
        True
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
    tail: int = -1,
    timeout: int = 30,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str = "strict",
    submission_id: str | None = None,
    attempt_number: int | None = None,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
    *,
    worker_id: str | None = None,
) -> Iterator[str] | Iterator[bytes]:
    """A log, or its last lines, in pieces.

    Args:
        address: as for `list_nodes`.
        node_id: the node of ``filename`` or ``pid``; by default the head, or where that pid is.
        node_ip: the same by its address.
        filename: the log's name, as `list_logs` gives it.
        actor_id: the log of that actor's process.
        task_id: the log of the worker that ran that task.
        pid: the log of that worker, also of one that has ended.
        follow: go on with what is written later, for ever.
        tail: how many lines; -1: all.
        timeout: seconds that the cluster has for each answer.
        suffix: of a worker, ``out`` or ``err``.
        encoding: of the text; None gives bytes.
        errors: what `bytes.decode` does with what is no such text.
        submission_id: the log of that submitted job.
        attempt_number: which attempt at the task, 0 for the first; None: the last.
        _interval: how often ``follow`` looks whether there is more, in seconds.
        filter_ansi_code: leave out what colours a text.
        worker_id: the log of that worker; not in Ray. Ids may be written as they begin.

    Returns:
        An iterator over texts, or bytes without ``encoding``.

    Raises:
        StateApiException: what is asked for is not there, or nothing says what is.

    Examples:
        >>> import sys
        >>> from nbray.util.state import get_log
        >>> @nbray.remote
        ... class Talker:
        ...     def id(self):
        ...         print("hello from the log", file=sys.stderr, flush=True)
        ...         return nbray.get_runtime_context().get_actor_id()
        >>> talker = Talker.remote()
        >>> lines = "".join(get_log(actor_id=nbray.get(talker.id.remote()), suffix="err"))
        >>> "hello from the log" in lines
        True
    """
    log = find_log(
        address, node_id, node_ip, filename, actor_id, task_id, pid, tail, timeout, suffix,
        worker_id, submission_id, attempt_number,
    )  # fmt: skip
    parts = _parts(log, follow, FOLLOW_S if _interval is None else _interval)
    if filter_ansi_code:
        parts = _without_colours(parts)
    # A part may end in the middle of a character.
    return parts if encoding is None else codecs.iterdecode(parts, encoding, errors)


_COLOURS = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")


def _without_colours(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same, whose lines are whole, so that no code is cut in two."""
    rest = b""
    for part in parts:
        whole, end, rest = (rest + part).rpartition(b"\n")
        yield _COLOURS.sub(b"", whole + end)
    yield _COLOURS.sub(b"", rest)


class Reading:
    """How far a log was read.

    Attributes:
        place: where its next part begins; -1: with its last lines.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        self._end: int | None = None

    def take(self, part: LogPart) -> bytes:
        """The bytes of a part that has come."""
        self.place = part.offset
        self._end = part.end if self._end is None else self._end
        return part.data

    @property
    def is_read(self) -> bool:
        """Whether all was read that there was at the first part."""
        return self._end is not None and self.place >= self._end


_MOST_LINES = 1 << 30  # no log has more


@dataclass
class LogReader:
    """Reads a log of a node, its last lines first, and then what comes behind them.

    Attributes:
        address: of the cluster; None: this program's.
        node: the id of the node.
        name: of the log.
        tail: how many lines come first; -1: all.
        timeout: seconds that the cluster has for each part.
    """

    address: str | None
    node: str
    name: str
    tail: int
    timeout: float
    _reading: Reading = field(init=False)

    def __post_init__(self) -> None:
        if self.tail > _MOST_LINES:
            self.tail = -1
        self._reading = Reading(0 if self.tail < 0 else -1)

    def part(self) -> bytes:
        """What comes next; nothing at the end of what there is.

        Raises:
            StateApiException: there is no such log, or the cluster does not answer.
        """
        query = q.log(self.node, self.name, self._reading.place, max(self.tail, 0))
        found: LogPart = ask(query, self.address, self.timeout)
        if found.missing:
            raise StateApiException(
                f"Node {self.node[:12]} has no log {self.name!r}; list_logs() has all."
            )
        return self._reading.take(found)

    @property
    def is_read(self) -> bool:
        """Whether all was read that there was at the first part."""
        return self._reading.is_read


def find_log(
    address: str | None, node_id: str | None, node_ip: str | None, filename: str | None,
    actor_id: str | None, task_id: str | None, pid: int | None, tail: int, timeout: int,
    suffix: str, worker_id: str | None, submission_id: str | None,
    attempt_number: int | None = None,
) -> LogReader:  # fmt: skip
    """The log that is meant; arguments and errors as for `get_log`."""
    if isinstance(tail, bool) or not isinstance(tail, int):
        raise TypeError(f"tail is a whole number of lines, not {type(tail).__name__}.")
    if filename is not None:
        check_text("The name of a log", filename)
    if suffix not in ("out", "err"):
        raise StateApiException(f"A worker's logs are 'out' and 'err'; there is no {suffix!r}.")
    if submission_id is not None:
        node_id, filename = _of_job(submission_id, address, timeout)
    node, name = _find(
        address, node_id, node_ip, filename, actor_id, task_id, pid, worker_id, suffix, timeout,
        attempt_number,
    )  # fmt: skip
    return LogReader(address, node, name, tail, timeout)


def _of_job(submission_id: str, address: str | None, timeout: int) -> tuple[str, str]:
    """The node and the name of a submitted job's log."""
    for row in ask(ROWS, address, timeout):
        if row.submission_id == submission_id:
            if not row.node_id:
                raise StateApiException(f"Job {submission_id} has not begun, and has no log.")
            return row.node_id.hex(), log_name(submission_id)
    raise StateApiException(f"No job has the submission id {submission_id!r}.")


def _parts(log: LogReader, follow: bool, interval_s: float) -> Iterator[bytes]:
    while follow or not log.is_read:
        data = log.part()
        if data:
            yield data
        elif follow:
            time.sleep(interval_s)
        else:
            return


def _find(
    address: str | None, node_id: str | None, node_ip: str | None, filename: str | None,
    actor_id: str | None, task_id: str | None, pid: int | None, worker_id: str | None,
    suffix: str, timeout: int, attempt: int | None = None,
) -> tuple[str, str]:  # fmt: skip
    """The node and the name of the log that is meant."""
    if filename is not None:
        return _node(address, node_id, node_ip, timeout), filename
    found: WorkerState | None = None
    if actor_id is not None:
        what = f"actor {actor_id}"
        actor = get_actor(actor_id, address, timeout)
        rows = _workers(address, timeout)
        found = newest([row for row in rows if actor and row.actor_id == actor.actor_id])
    elif task_id is not None:
        what = f"task {task_id}"
        known = get_task(task_id, address, timeout)
        tried = known if isinstance(known, list) else [known] if known else []
        if attempt is not None:
            what += f", attempt {attempt}"
            tried = [row for row in tried if row.attempt_number == attempt]
        task = tried[-1] if tried else None
        if task is not None and task.worker_id and task.node_id:
            return task.node_id, _name(task.worker_id, suffix)
        if task is not None and task.actor_id:
            return _find(
                address, None, None, None, task.actor_id, None, None, None, suffix, timeout
            )
        if task is not None and task.error_message:
            what += f", which failed: {task.error_message.rstrip()}"
    elif worker_id is not None:
        what = f"worker {worker_id}"
        found = get_worker(worker_id, address, timeout)
    elif pid is not None:
        what = f"pid {pid}"
        rows = [row for row in _workers(address, timeout) if row.pid == pid]
        if len({row.node_id for row in rows}) > 1 or node_id or node_ip:
            node = _node(address, node_id, node_ip, timeout)
            rows = [row for row in rows if row.node_id == node]
        found = newest(rows)
    else:
        raise StateApiException(
            "Which log? Give one of filename, actor_id, task_id, worker_id and pid; list_logs() "
            "has the names."
        )
    if found is None:
        raise StateApiException(f"No worker is known for {what}.")
    return found.node_id, _name(found.worker_id, suffix)


def _workers(address: str | None, timeout: int) -> list[WorkerState]:
    """The workers that run, and the newest that ended; drivers have no logs."""
    rows, _unreachable = ask(q.WORKERS, address, timeout)
    return [row for row in rows if row.worker_type == "WORKER"]


def is_log_name(word: str) -> bool:
    """Whether it is the name of a file, not that of a process."""
    return "." in word


def find_worker(word: str, address: str | None = None, timeout: int = 30) -> WorkerState | None:
    """The worker, of those that run or ended lately, that has this pid or id, or whose actor has
    this name or id.

    Raises:
        StateApiException: several have ids that begin like that.
    """
    rows = _workers(address, timeout)
    if word.isdecimal() and (found := newest([row for row in rows if str(row.pid) == word])):
        return found
    actors = ask(q.ACTORS, address, timeout)
    named = {actor.actor_id for actor in actors if actor.name == word}
    if not named and len(word) >= SHORTEST:
        written = word.lower()
        ids = full_id(written, (row.worker_id for row in rows))
        if ids is not None:
            return next(row for row in rows if row.worker_id == ids)
        known = (actor.actor_id for actor in actors)
        named = {actor_id for actor_id in [full_id(written, known)] if actor_id is not None}
    return newest([row for row in rows if row.actor_id in named])


def newest(workers: Sequence[WorkerState]) -> WorkerState | None:
    """The one that runs, or began last, of several with a pid or of an actor."""
    return max(workers, key=lambda row: (row.is_alive, row.start_time_ms or 0), default=None)


def _name(worker_id: str, suffix: str) -> str:
    return f"worker-{worker_id[:12]}.{suffix}"


def _node(address: str | None, node_id: str | None, node_ip: str | None, timeout: int) -> str:
    rows = ask(q.NODES, address, timeout)
    if node_id is not None and len(node_id) >= SHORTEST:
        node_id = full_id(node_id.lower(), (row.node_id for row in rows)) or node_id
    nodes = [row for row in rows if row.state == "ALIVE"]
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
