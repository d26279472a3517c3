"""``/api/v0/``: Ray's REST API of the state of the cluster, for ``ray list``, ``get``, ``summary``.

The functions of the state API answer, in threads of their own, a few at a time: one question more
waits for its turn, and the page goes on.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from nbray.state import lists, logs, summaries
from nbray.state.events import list_cluster_events
from nbray.state.rows import TaskState
from nbray.state.runtime_envs import RuntimeEnvState, list_runtime_envs
from nbray.state.selecting import DEFAULT_LIMIT, MAX_LIMIT, InvalidQueryError, StateApiException

_LISTS: dict[str, Callable[..., Sequence[Any]]] = {
    "actors": lists.list_actors,
    "cluster_events": list_cluster_events,
    "jobs": lists.list_jobs,
    "nodes": lists.list_nodes,
    "objects": lists.list_objects,
    "placement_groups": lists.list_placement_groups,
    "runtime_envs": list_runtime_envs,
    "tasks": lists.list_tasks,
    "workers": lists.list_workers,
}
_SUMMARIES: dict[str, Callable[..., dict[str, Any]]] = {
    "actors": summaries.summarize_actors,
    "objects": summaries.summarize_objects,
    "tasks": summaries.summarize_tasks,
}
_MOST_AT_ONCE = 4
_LONGEST_S = 120
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_THREADS = ThreadPoolExecutor(_MOST_AT_ONCE, "state-rest")
_LOGS = ThreadPoolExecutor(16, "state-logs")


async def _in_thread(ask: Callable[[], Any], threads: ThreadPoolExecutor = _THREADS) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, ask)


def _envelope(result: Any, message: str = "", good: bool = True) -> str:
    """Ray's envelope round a result."""
    return json.dumps({"result": good, "msg": message, "data": {"result": result}})


class _StateHandler(RequestHandler):
    """Ray's envelope, and its errors."""

    def initialize(self, address: str) -> None:
        """Of the cluster whose GCS is there."""
        self.address = address

    def reply(self, result: Any, message: str = "", status: int = 200) -> None:
        """Answer in Ray's envelope."""
        self.set_status(status)
        self.reply_text(_envelope(result, message, status == 200))

    def reply_text(self, text: str) -> None:
        """Answer by a result that is in the envelope."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what was wrong."""
        _kind, error, _trace = kwargs.get("exc_info", (None, None, None))
        wrong = isinstance(error, InvalidQueryError | ValueError)
        known = isinstance(error, StateApiException | OSError)
        status = 400 if wrong else 500 if known else status_code
        self.reply(None, str(error) if error is not None else self._reason, status)

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number of the query.

        Raises:
            InvalidQueryError: it is none, or too large.
        """
        text = self.get_query_argument(name, str(default))
        try:
            found = int(float(text))
        except (ValueError, OverflowError):
            raise InvalidQueryError(f"{name} is a number, not {text[:80]!r}.") from None
        if found > most:
            raise InvalidQueryError(
                f"Given {name} {found} exceeds the supported {name} {most}. Use a lower one."
            )
        return found

    def timeout(self) -> int:
        """How many seconds the cluster has."""
        return max(1, min(_LONGEST_S, self.number("timeout", 30, 1 << 31)))

    def flag(self, name: str, default: bool = False) -> bool:
        """Whether something is wanted."""
        return self.get_query_argument(name, str(default)).lower() in ("true", "1")


class StateList(_StateHandler):
    """``/api/v0/TABLE``."""

    async def get(self, table: str) -> None:
        """The rows that are asked for."""
        if table not in _LISTS:
            self.reply(None, f"There is no table {table}: {', '.join(_LISTS)}.", 404)
            return
        keys, predicates, values = (
            self.get_query_arguments(f"filter_{part}") for part in ("keys", "predicates", "values")
        )
        filters = list(zip(keys, predicates or ["="] * len(keys), values, strict=False))
        limit = self.number("limit", DEFAULT_LIMIT, MAX_LIMIT)
        if limit <= 0:
            raise InvalidQueryError(f"The limit must be positive, not {limit}.")
        ask = functools.partial(
            _LISTS[table], address=self.address, filters=filters, limit=MAX_LIMIT,
            timeout=self.timeout(), detail=self.flag("detail"), raise_on_missing_output=False,
        )  # fmt: skip
        only_workers = table == "workers" and self.flag("exclude_driver")

        def text() -> str:  # of thousands of rows: others are answered meanwhile
            rows = ask()
            if only_workers:
                rows = [row for row in rows if row.worker_type != "DRIVER"]
            return _envelope(
                {
                    "total": len(rows), "num_after_truncation": len(rows),
                    "num_filtered": len(rows), "result": [_as_json(row) for row in rows[:limit]],
                    "partial_failure_warning": "", "warnings": None,
                }
            )  # fmt: skip

        self.reply_text(await _in_thread(text))


class StateSummary(_StateHandler):
    """``/api/v0/TABLE/summarize``."""

    async def get(self, table: str) -> None:
        """The counts."""
        if table not in _SUMMARIES:
            self.reply(None, f"There is no summary of {table}.", 404)
            return
        found = await _in_thread(
            functools.partial(
                _SUMMARIES[table], address=self.address, timeout=self.timeout(),
                raise_on_missing_output=False,
            )
        )  # fmt: skip
        total = len(found["cluster"]["summary"])
        self.reply(
            {
                "total": total, "num_after_truncation": total, "num_filtered": total,
                "result": {"node_id_to_summary": found}, "partial_failure_warning": "",
                "warnings": None,
            }
        )  # fmt: skip


class StateLogs(_StateHandler):
    """``/api/v0/logs``: the names of a node's logs."""

    async def get(self) -> None:
        """The names by kind."""
        ask = self.get_query_argument
        found = await _in_thread(
            functools.partial(
                logs.list_logs, self.address, ask("node_id", None), ask("node_ip", None),
                ask("glob", None), self.timeout(),
            )
        )  # fmt: skip
        self.reply(found)


class StateLog(_StateHandler):
    """``/api/v0/logs/file`` and ``/stream``: the last lines of a log, and what comes then."""

    _has_gone = False

    def on_connection_close(self) -> None:
        """The reader has gone: a log to which nothing is added would not show that."""
        self._has_gone = True

    async def get(self, media: str) -> None:
        """The text, as it is; a reader that does not read holds up itself only."""
        ask = self.get_query_argument
        pid = ask("pid", None)
        find = functools.partial(
            logs.find_log, self.address, ask("node_id", None), ask("node_ip", None),
            ask("filename", None), ask("actor_id", None), ask("task_id", None),
            int(pid) if pid else None, self.number("lines", 1000, 1 << 40), self.timeout(),
            ask("suffix", "out"), None, ask("submission_id", None),
        )  # fmt: skip
        log = await _in_thread(find, _LOGS)
        plain = self.flag("filter_ansi_code")
        name = ask("download_filename", "file.txt")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        if re.fullmatch(r"[\w.-]+", name):
            self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        try:
            async for part in self._texts(log, media == "stream"):
                self.write(_COLOURS.sub("", part) if plain else part)
                await self.flush()
        except StreamClosedError:
            return  # the reader has gone

    async def _texts(self, log: logs.LogReader, follow: bool) -> AsyncIterator[str]:
        """What is read, by a thread for each part: none stands and waits for more."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while not self._has_gone and (follow or not log.is_read):
            data = await _in_thread(log.part, _LOGS)
            if text := decoder.decode(data):
                yield text
            if not data:
                if not follow:
                    break
                await asyncio.sleep(logs.FOLLOW_S)
        if text := decoder.decode(b"", final=True):
            yield text


def _as_json(row: Any) -> dict[str, Any]:
    """A row as Ray's clients take it: they check every value, and some may not be null."""
    hidden = {one.name for one in fields(row) if one.metadata.get("detail")}
    found = {
        name: int(value) if name.endswith("_ms") and isinstance(value, float) else value
        for name, value in asdict(row).items()
        if value is not None or name not in hidden
    }
    if isinstance(row, TaskState):
        found["parent_task_id"] = row.parent_task_id or ""
    elif isinstance(row, RuntimeEnvState):
        found["success"], found["node_id"] = bool(row.success), row.node_id or ""
        found["creation_time_ms"] = float(row.creation_time_ms or 0)
    return found


def state_routes(address: str) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """The routes of ``/api/v0/``."""
    mine = {"address": address}
    return [
        (r"/api/v0/logs", StateLogs, mine),
        (r"/api/v0/logs/(file|stream)", StateLog, mine),
        (r"/api/v0/([a-z_]+)", StateList, mine),
        (r"/api/v0/([a-z_]+)/summarize", StateSummary, mine),
    ]
