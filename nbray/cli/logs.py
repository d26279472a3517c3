"""``nbray logs``: what the processes of the cluster wrote, on any node."""

from __future__ import annotations

import click

from nbray.cli.state import address_option, clear_errors, timeout_option
from nbray.cli.terminal import copy, say
from nbray.state.logs import find_worker, get_log, is_log_name, list_logs


@click.command()
@click.argument("name", required=False)
@click.option("--node-id", help="The node; the head by default.")
@click.option("--node-ip", help="The node, by its address.")
@click.option("--pid", type=int, help="The log of this worker, also of one that has ended.")
@click.option("--worker-id", help="The log of this worker. Ids may be written as they begin.")
@click.option("--actor-id", help="The log of this actor's process.")
@click.option("--task-id", help="The log of the worker that ran this task.")
@click.option("--submission-id", "--job", help="The log of this submitted job.")
@click.option("--err", is_flag=True, help="Of a worker, what it wrote to stderr.")
@click.option("--tail", default=1000, show_default=True, help="So many lines; -1 for all.")
@click.option("--follow", is_flag=True, help="Go on with what is written later.")
@timeout_option
@address_option
@clear_errors
def logs(
    name: str | None, node_id: str | None, node_ip: str | None, pid: int | None,
    actor_id: str | None, task_id: str | None, err: bool, tail: int, follow: bool, timeout: int,
    address: str | None, worker_id: str | None, submission_id: str | None,
) -> None:  # fmt: skip
    """Print a log, or list those of a node.

    NAME is a log's, a worker's pid or id, an actor's name or id, or a pattern like 'worker-*',
    whose names are listed. Ids may be written as they begin.
    """
    pattern = name is not None and any(sign in name for sign in "*?[")
    if name is not None and not pattern and not is_log_name(name):
        found = find_worker(name, address, timeout)
        if found is not None:
            name, worker_id = None, found.worker_id
    if pattern or (name, pid, actor_id, task_id, worker_id, submission_id) == (None,) * 6:
        for kind, names in list_logs(address, node_id, node_ip, name, timeout).items():
            say(f"{kind}:")
            for one in names:
                say(f"  {one}")
        return
    parts = get_log(
        address, node_id, node_ip, name, actor_id, task_id, pid, follow, tail, timeout,
        "err" if err else "out", errors="replace", worker_id=worker_id,
        submission_id=submission_id,
    )  # fmt: skip
    for part in parts:
        copy(str(part))
