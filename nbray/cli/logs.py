"""``nbray logs``: what the processes of the cluster wrote, on any node.

As in Ray, ``nbray logs actor``, ``task``, ``worker`` and ``job`` say whose log is meant by
``--id`` or ``--pid``, and without such a word the name of a log is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from nbray.cli.state import address_option, clear_errors, timeout_option
from nbray.cli.terminal import copy, say
from nbray.state.logs import find_worker, get_log, is_log_name, list_logs

F = TypeVar("F", bound=Callable[..., Any])

_BY_NAME = "cluster"


class _Logs(click.Group):
    """Takes what is none of its commands for the words of the one that goes by names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [_BY_NAME, *args]
        return super().parse_args(ctx, args)


def _reading(*, node: bool = True, err: bool = True) -> Callable[[F], F]:
    """The options of how a log is read; ``node``: of where it is, ``err``: of which of two."""

    def mark(command: F) -> F:
        for option in reversed(
            [
                *([_NODE_ID, _NODE_IP] if node else []), *([_ERR] if err else []),
                _TAIL, _FOLLOW, _INTERVAL, timeout_option, address_option,
            ]
        ):  # fmt: skip
            command = option(command)
        return command

    return mark


_NODE_ID = click.option("-id", "--node-id", help="The node; the head by default.")
_NODE_IP = click.option("-ip", "--node-ip", help="The node, by its address.")
_ERR = click.option("--err", is_flag=True, help="Of a worker, what it wrote to stderr.")
_TAIL = click.option("--tail", default=1000, show_default=True, help="So many lines; -1 for all.")
_FOLLOW = click.option("-f", "--follow", is_flag=True, help="Go on with what is written later.")
_INTERVAL = click.option("--interval", type=float, hidden=True)


@click.group(cls=_Logs)
def logs() -> None:
    """Print a log, or list those of a node.

    NAME is a log's, a worker's pid or id, an actor's name or id, or a pattern like 'worker-*':
    nbray logs NAME, or nbray logs cluster NAME. Ids may be written as they begin.
    """


@logs.command(_BY_NAME)
@click.argument("name", required=False)
@click.option("--pid", type=int, help="The log of this worker, also of one that has ended.")
@click.option("--worker-id", help="The log of this worker. Ids may be written as they begin.")
@click.option("--actor-id", help="The log of this actor's process.")
@click.option("--task-id", help="The log of the worker that ran this task.")
@click.option("--submission-id", "--job", help="The log of this submitted job.")
@click.option("--encoding", default="utf-8", show_default=True, help="Of the log's text.")
@click.option(
    "--encoding-errors", default="replace", show_default=True, help="As of `bytes.decode`."
)
@_reading()
@clear_errors
def cluster(
    name: str | None, node_id: str | None, node_ip: str | None, pid: int | None,
    actor_id: str | None, task_id: str | None, timeout: int, address: str | None,
    worker_id: str | None, submission_id: str | None, **reading: Any,
) -> None:  # fmt: skip
    """Print the log NAME, or list those of a node: all, or of several that match NAME.

    NAME is a log's, a worker's pid or id, an actor's name or id, or a pattern like 'worker-*'.
    """
    where: dict[str, Any] = {
        "address": address,
        "node_id": node_id,
        "node_ip": node_ip,
        "timeout": timeout,
    }
    pattern = name is not None and any(sign in name for sign in "*?[")
    if name is not None and not pattern and not is_log_name(name):
        found = find_worker(name, address, timeout)
        if found is not None:
            name, worker_id = None, found.worker_id
    if pattern or (name, pid, actor_id, task_id, worker_id, submission_id) == (None,) * 6:
        kinds = list_logs(address, node_id, node_ip, name, timeout)
        names = [one for listed in kinds.values() for one in listed]
        if not pattern or len(names) != 1:
            _list(kinds)
            return
        name = names[0]
    _print(
        filename=name, actor_id=actor_id, task_id=task_id, pid=pid, worker_id=worker_id,
        submission_id=submission_id, **where, **reading,
    )  # fmt: skip


@logs.command()
@click.option("-a", "--id", "actor_id", help="Of the actor, also as it begins.")
@click.option("-pid", "--pid", type=int, help="Of its process.")
@_reading()
@clear_errors
def actor(actor_id: str | None, pid: int | None, **reading: Any) -> None:
    """Print the log of an actor's process."""
    if actor_id is None and pid is None:
        raise click.MissingParameter(
            "At least one of `--pid` and `--id` has to be set.", param_type="option"
        )
    _print(actor_id=actor_id, pid=pid, **reading)


@logs.command()
@click.option("--id", "task_id", required=True, help="Of the task, also as it begins.")
@click.option("-a", "--attempt-number", type=int, help="0 for the first; the last by default.")
@_reading(node=False)
@clear_errors
def task(**reading: Any) -> None:
    """Print the log of the worker that ran a task."""
    _print(**reading)


@logs.command()
@click.option("-pid", "--pid", type=int, required=True, help="Of the worker.")
@_reading()
@clear_errors
def worker(**reading: Any) -> None:
    """Print the log of a worker, also of one that has ended."""
    _print(**reading)


@logs.command()
@click.option("--id", "submission_id", required=True, help="The submission id of the job.")
@_reading(node=False, err=False)
@clear_errors
def job(**reading: Any) -> None:
    """Print what a submitted job has written."""
    _print(**reading)


def _list(kinds: dict[str, list[str]]) -> None:
    for kind, names in kinds.items():
        say(f"{kind}:")
        for one in names:
            say(f"  {one}")


def _print(
    *, err: bool = False, interval: float | None = None, encoding: str = "utf-8",
    encoding_errors: str = "replace", **wanted: Any,
) -> None:  # fmt: skip
    parts = get_log(
        suffix="err" if err else "out", encoding=encoding, errors=encoding_errors,
        _interval=interval, **wanted,
    )  # fmt: skip
    for part in parts:
        copy(str(part))
