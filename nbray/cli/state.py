"""``nbray list``, ``get``, ``summary``, ``timeline`` and ``memory``: the state API in a shell."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml
from rich.table import Table

from nbray.cli.console import SafeConsole, cell
from nbray.cli.terminal import CliError, say
from nbray.state import asking, details, lists, summaries
from nbray.state import queries as q
from nbray.state.events import list_cluster_events
from nbray.state.rows import HolderState, ObjectState
from nbray.state.runtime_envs import list_runtime_envs
from nbray.state.selecting import DEFAULT_LIMIT, MAX_LIMIT, StateApiException
from nbray.state.text import size_text
from nbray.state.trace import MOST_TASKS, chrome_trace

_LISTS: dict[str, Callable[..., Sequence[Any]]] = {
    "actors": lists.list_actors,
    "cluster-events": list_cluster_events,
    "jobs": lists.list_jobs,
    "nodes": lists.list_nodes,
    "objects": lists.list_objects,
    "placement-groups": lists.list_placement_groups,
    "runtime-envs": list_runtime_envs,
    "tasks": lists.list_tasks,
    "workers": lists.list_workers,
}
_GETS: dict[str, Callable[..., Any]] = {
    "actors": details.get_actor,
    "jobs": details.get_job,
    "nodes": details.get_node,
    "objects": details.get_objects,
    "placement-groups": details.get_placement_group,
    "tasks": details.get_task,
    "workers": details.get_worker,
}
_SUMMARIES: dict[str, Callable[..., dict[str, Any]]] = {
    "actors": summaries.summarize_actors,
    "objects": summaries.summarize_objects,
    "tasks": summaries.summarize_tasks,
}
_NAMES = {
    "cluster-events": "cluster events",
    "placement-groups": "placement groups",
    "runtime-envs": "runtime environments",
}
_IN_TABLES = {
    "actors": ("actor_id", "class_name", "state", "job_id", "name", "node_id", "pid"),
    "cluster-events": ("time", "severity", "source_type", "message"),
    "jobs": ("submission_id", "job_id", "type", "status", "entrypoint", "namespace"),
    "runtime-envs": ("runtime_env", "ref_cnt", "success", "node_id"),
    "nodes": ("node_id", "node_ip", "is_head_node", "state", "hostname", "resources_total"),
    "objects": (
        "object_id", "object_size", "task_status", "reference_type", "call_site", "type", "pid",
        "ip",
    ),
    "tasks": (
        "task_id", "attempt_number", "name", "state", "job_id", "type", "node_id", "worker_pid",
        "error_type",
    ),
    "placement-groups": ("placement_group_id", "name", "creator_job_id", "state", "strategy"),
    "workers": (
        "worker_id", "is_alive", "worker_type", "activity", "exit_type", "node_id", "ip", "pid",
    ),
}  # fmt: skip

_ORDERS: dict[str, Callable[[ObjectState], Any]] = {
    "OBJECT_SIZE": lambda row: -row.object_size,
    "PID": lambda row: row.pid,
    "REFERENCE_TYPE": lambda row: row.reference_type,
}
_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}

address_option = click.option(
    "--address", help="HOST:PORT of the head node; the newest cluster here by default."
)
timeout_option = click.option("--timeout", default=30, show_default=True, help="Seconds.")


def clear_errors(command: Callable[..., None]) -> Callable[..., None]:
    """What the cluster refuses, and that there is none, is one line."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        try:
            command(**options)
        except (StateApiException, OSError) as error:
            raise CliError(str(error)) from error

    return run


@click.command("list")
@click.argument("resource", type=click.Choice(sorted(_LISTS)))
@click.option(
    "-f", "--filter", "conditions", multiple=True,
    help='"KEY=VALUE" or "KEY!=VALUE"; several must all hold.',
)  # fmt: skip
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, help="At most so many rows.")
@click.option("--detail", is_flag=True, help="All columns, as YAML unless --format says else.")
@click.option(
    "--format", "form", type=click.Choice(["default", "table", "json", "yaml"]), default="default"
)
@timeout_option
@address_option
@clear_errors
def list_command(
    resource: str, conditions: tuple[str, ...], limit: int, detail: bool, form: str, timeout: int,
    address: str | None,
) -> None:  # fmt: skip
    """List the tasks, actors, objects, nodes, workers, jobs, groups or events of a cluster."""
    asks_nodes = resource == "tasks"  # each for so many
    most = limit if asks_nodes or not 0 < limit < MAX_LIMIT else MAX_LIMIT
    rows = _LISTS[resource](
        address=address, filters=[_condition(text) for text in conditions], limit=most,
        timeout=timeout, detail=detail, raise_on_missing_output=False,
    )  # fmt: skip
    total = len(rows)
    rows = rows[-limit:] if resource == "cluster-events" else rows[:limit]  # the newest
    form = ("yaml" if detail else "table") if form == "default" else form
    if form != "table":
        print_as([asdict(row) for row in rows], form)
        return
    if not rows:
        such = "such " if conditions else ""
        say(f"There are no {such}{_NAMES.get(resource, resource)}.")
        return
    columns = list(asdict(rows[0])) if detail else _IN_TABLES[resource]
    print_table(columns, [[getattr(row, column) for column in columns] for row in rows])
    say(_total(resource, rows, total, limit))


def _total(resource: str, rows: Sequence[Any], total: int, limit: int) -> str:
    """How many there are, and of which states; what is left out is said."""
    column = next((name for name in ("state", "status") if hasattr(rows[0], name)), "")
    counts: dict[str, int] = {}
    for row in rows if column else ():
        counts[str(getattr(row, column))] = counts.get(str(getattr(row, column)), 0) + 1
    states = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    name = _NAMES.get(resource, resource)
    if total > limit:
        return f"{limit} of {total} {name} are shown; --limit shows more."
    if total == limit:
        return f"{limit} {name} are shown; --limit shows more, if there are more."
    one = name.removesuffix("s") if total == 1 else name
    return f"{total} {one}" + (f": {states}." if states else ".")


@click.command("get")
@click.argument("resource", type=click.Choice(sorted(_GETS)))
@click.argument("id")
@click.option("--format", "form", type=click.Choice(["json", "yaml"]), default="yaml")
@timeout_option
@address_option
@clear_errors
def get_command(resource: str, id: str, form: str, timeout: int, address: str | None) -> None:
    """Show all that is known of one task, actor, object, node, worker or job."""
    found = _GETS[resource](id, address=address, timeout=timeout)
    if not found:
        raise CliError(f"None of the {resource} has the id {id}.")
    rows = [asdict(row) for row in (found if isinstance(found, list) else [found])]
    if form != "json":  # for programs every field is there, for people what is known
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    print_as(rows, form)


@click.command("summary")
@click.argument("resource", type=click.Choice(sorted(_SUMMARIES)))
@click.option("--format", "form", type=click.Choice(["table", "json", "yaml"]), default="table")
@timeout_option
@address_option
@clear_errors
def summary_command(resource: str, form: str, timeout: int, address: str | None) -> None:
    """Count tasks by function, actors by class, or objects by the line that made them."""
    cluster = _SUMMARIES[resource](
        address=address, timeout=timeout, raise_on_missing_output=False
    )["cluster"]  # fmt: skip
    summary: dict[str, dict[str, Any]] = cluster["summary"]
    if form != "table":
        print_as(cluster, form)
        return
    rows: list[list[Any]]
    if resource == "objects":
        columns = ["call_site", "objects", "size_mb", "processes", "references"]
        rows = [
            [site, row["total_objects"], f"{row['total_size_mb']:.3g}", row["total_num_workers"],
             _counts(row["ref_type_counts"])]
            for site, row in summary.items()
        ]  # fmt: skip
    else:
        columns = ["class" if resource == "actors" else "function", "states"]
        rows = [[name, _counts(row["state_counts"])] for name, row in summary.items()]
        if resource == "tasks":
            columns.insert(1, "type")
            rows = [[row[0], summary[row[0]]["type"], row[1]] for row in rows]
    if rows:
        print_table(columns, rows)
    else:
        say(f"There are no {resource}.")


@click.command()
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path),
    help="The file; nbray-timeline-TIME.json by default.",
)  # fmt: skip
@timeout_option
@address_option
@clear_errors
def timeline(output: Path | None, timeout: int, address: str | None) -> None:
    """Write the tasks that ran as a trace, for ui.perfetto.dev or chrome://tracing."""
    found = asking.ask(q.tasks(MOST_TASKS), address, timeout)
    path = output or Path(f"nbray-timeline-{time.strftime('%Y-%m-%d_%H-%M-%S')}.json")
    events = chrome_trace(found.rows, time.time() * 1000)
    path.write_text(json.dumps(events))
    spans = sum(event["ph"] == "X" for event in events)
    say(f"{spans} tasks are in {path}; open it at https://ui.perfetto.dev.")
    if found.dropped:
        say(f"{found.dropped} more have run that are not remembered one by one.")
    for text in found.missing:
        say(f"Not complete: {text}.")


@click.command()
@click.option("-n", "--num-entries", "--n", default=50, show_default=True, help="Objects to show.")
@click.option(
    "--group-by", type=click.Choice(["PROCESS", "STACK_TRACE", "NODE_ADDRESS"],
    case_sensitive=False), default="PROCESS", show_default=True,
    help="Add up by process, by the line that made them, or by host.",
)  # fmt: skip
@click.option(
    "--sort-by", type=click.Choice([*_ORDERS], case_sensitive=False), default="OBJECT_SIZE",
    show_default=True, help="Which objects come first.",
)  # fmt: skip
@click.option(
    "--units", type=click.Choice([*_UNITS], case_sensitive=False),
    help="Of sizes; by default that which fits.",
)  # fmt: skip
@click.option("--no-format", is_flag=True, hidden=True, expose_value=False)
@click.option("--stats-only", is_flag=True, help="Only the sums.")
@timeout_option
@address_option
@clear_errors
def memory(
    num_entries: int, group_by: str, sort_by: str, units: str | None, stats_only: bool,
    timeout: int, address: str | None,
) -> None:  # fmt: skip
    """Show the objects of a cluster: which process holds each, and what keeps it."""
    found = asking.find_objects(address, MAX_LIMIT, timeout, complete=False)
    nodes = [
        node
        for node in lists.list_nodes(address, limit=MAX_LIMIT, timeout=timeout)
        if node.state == "ALIVE"
    ]
    sized = size_text if units is None else partial(_in_units, unit=units)
    if group_by == "PROCESS":
        _print_holders(found.holders, sized)
    elif group_by == "NODE_ADDRESS":
        _print_hosts(found.holders, sized)
    else:
        _print_sites(found.rows, sized)
    for node in nodes:
        stats = {key: sized(node.stats.get(f"store_{key}", 0.0)) for key in _STORE}
        say(
            f"Object store of node {node.node_id[:8]}: {stats['used']} of {stats['total']} in "
            f"use, {stats['spilled']} on disk."
        )
    if not stats_only and found.rows:
        columns = ["object", "size", "held by", "owner", "kept by", "refs", "task", "made at"]
        rows: list[list[Any]] = [
            [
                row.object_id, "?" if row.object_size < 0 else sized(row.object_size),
                f"{row.type.lower()} pid {row.pid} {row.ip}",
                "yes" if row.is_owner else "", row.reference_type, row.local_ref_count,
                row.task_status, row.call_site,
            ]
            for row in sorted(found.rows, key=_ORDERS[sort_by])[:num_entries]
        ]  # fmt: skip
        print_table(columns, rows)
        if len(found.rows) > num_entries:
            which = "largest" if sort_by == "OBJECT_SIZE" else "first"
            say(f"The {num_entries} {which} are shown; -n shows more.")
    for text in found.missing:
        say(f"Not complete: {text}.")
    if found.rows and not any(row.call_site for row in found.rows):
        say("NBRAY_RECORD_REF_CREATION_SITES=1 tells the lines that made them.")


_SIZES = ("memory", "object_store_memory")
_STORE = ("used", "total", "spilled")


def _in_units(size: float, unit: str) -> str:
    return f"{size / _UNITS[unit]:.2f} {unit}"


def _print_holders(holders: list[HolderState], sized: Callable[[float], str]) -> None:
    if not holders:
        say("No process holds an object.")
        return
    rows: list[list[Any]] = [
        [f"{row.type.lower()} pid {row.pid}", row.ip, row.owned, sized(row.owned_bytes)]
        for row in sorted(holders, key=lambda row: -row.owned_bytes)
    ]
    print_table(["process", "host", "owns", "bytes"], rows)


def _print_hosts(holders: list[HolderState], sized: Callable[[float], str]) -> None:
    hosts: dict[str, list[HolderState]] = {}
    for row in holders:
        hosts.setdefault(row.ip, []).append(row)
    rows: list[list[Any]] = [
        [host, len(has), sum(row.owned for row in has), sized(sum(row.owned_bytes for row in has))]
        for host, has in hosts.items()
    ]
    print_table(["host", "processes", "own", "bytes"], rows)


def _print_sites(objects: list[ObjectState], sized: Callable[[float], str]) -> None:
    sites: dict[str, list[int]] = {}
    for row in objects:
        if row.is_owner:
            sites.setdefault(row.call_site or "(not recorded)", []).append(max(0, row.object_size))
    ordered = sorted(sites.items(), key=lambda item: -sum(item[1]))
    rows: list[list[Any]] = [[site, len(has), sized(sum(has))] for site, has in ordered]
    print_table(["made at", "objects", "bytes"], rows)


def _condition(text: str) -> tuple[str, str, str]:
    for predicate in ("!=", "="):
        key, found, value = text.partition(predicate)
        if found:
            return key.strip(), predicate, value.strip()
    raise click.BadParameter(f"{text!r} is neither KEY=VALUE nor KEY!=VALUE.")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def print_as(data: Any, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(data, indent=2))
    else:
        click.echo(yaml.safe_dump(data, sort_keys=False), nl=False)


def print_table(columns: Sequence[str], rows: list[list[Any]]) -> None:
    """Wide tables are not folded where the output is no terminal: programs read them by line."""
    console = SafeConsole(highlight=False)
    if not console.is_terminal:
        console = SafeConsole(highlight=False, width=100_000)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell(_words(value)) for value in row))
    console.print(table)


def _words(value: Any) -> Any:
    """Amounts by name as people write them; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return ", ".join(
        f"{name} {size_text(amount) if name in _SIZES else amount}"
        for name, amount in value.items()
        if not str(name).startswith("node:")
    )
