"""``nbray kill-actor``, ``health-check`` and ``get-auth-token``: small commands on a cluster."""

from __future__ import annotations

import asyncio
import sys

import click

from nbray.cli.state import address_option, clear_errors, timeout_option
from nbray.cli.terminal import CliError, say
from nbray.common.text import one_line
from nbray.launcher.token import load_token
from nbray.state import queries as q
from nbray.state.client import RpcError, StateClient, find_cluster
from nbray.state.rows import ActorState
from nbray.state.short_ids import SHORTEST, full_id

_HEALTH_S = 10.0


@click.command("kill-actor")
@click.argument("actor", required=False)
@click.option("--name", help="The same as ACTOR, as in Ray.")
@click.option("--namespace", help="Of a name that several actors have.")
@click.option("--force", is_flag=True, help="At once: nothing of its own code runs any more.")
@click.option("--no-restart", is_flag=True, help="With --force, also an actor that may restart "
              "ends for good.")  # fmt: skip
@address_option
@clear_errors
def kill_actor(
    actor: str | None, name: str | None, namespace: str | None, force: bool, no_restart: bool,
    address: str | None,
) -> None:  # fmt: skip
    """End ACTOR: a name, or an id as far as it is written.

    It is asked to leave, runs its exit handlers, and is not restarted; --force kills it.
    """
    wanted = actor or name
    if wanted is None:
        raise click.UsageError("Which actor? Give its name or id.")
    cluster, token = find_cluster(address)

    async def end() -> ActorState:
        async with StateClient(cluster, token) as client:
            found = _the_actor(await client.ask(q.ACTORS), wanted, namespace)
            await client.kill_actor(found.actor_id, not force, no_restart or not force)
            return found

    try:
        ended = asyncio.run(end())
    except RpcError as error:
        raise CliError(str(error)) from error
    shown = f" {one_line(ended.name)}" if ended.name else ""
    say(f"Actor {ended.actor_id[:8]}{shown} of class {one_line(ended.class_name)} ends.")


def _the_actor(rows: list[ActorState], wanted: str, namespace: str | None) -> ActorState:
    """The one that lives and is meant.

    Raises:
        CliError: none is, or several are.
    """
    living = [row for row in rows if row.state != "DEAD"]
    named = [row for row in living if row.name == wanted]
    if namespace is not None:
        named = [row for row in named if row.ray_namespace == namespace]
    if len(named) > 1:
        spaces = ", ".join(sorted(one_line(row.ray_namespace or "") for row in named))
        raise CliError(f"Several actors are called {wanted!r}: --namespace says which ({spaces}).")
    if not named and len(wanted) >= SHORTEST:
        known = full_id(wanted.lower(), (row.actor_id for row in living))
        named = [row for row in living if row.actor_id == known]
    if not named:
        raise CliError(f"No actor that lives has the name or id {wanted!r}; nbray list actors.")
    return named[0]


@click.command("health-check")
@click.option("--component", type=click.Choice(["gcs", "dashboard"]), default="gcs",
              help="What is to answer; the GCS by default.")  # fmt: skip
@click.option("--skip-version-check", is_flag=True, hidden=True, expose_value=False)
@timeout_option
@address_option
def health_check(component: str, timeout: int, address: str | None) -> None:
    """End with 0 if the cluster answers and has a node that lives, else with 1 and the reason."""
    from nbray.state.client import find_dashboard

    try:
        cluster, token = find_cluster(address)

        async def ask() -> int:
            async with StateClient(cluster, token) as client:
                nodes = await client.ask(q.NODES, min(timeout, _HEALTH_S))
                return sum(node.state == "ALIVE" for node in nodes)

        living = asyncio.run(ask())
        trouble = "" if living else f"Cluster {cluster} has no node that lives."
        if component == "dashboard" and not trouble:
            found = find_dashboard(cluster, token)
            trouble = found.probe() if found else f"Cluster {cluster} has no dashboard."
    except (RpcError, OSError) as error:
        trouble = str(error)
    if trouble:
        raise CliError(trouble)
    say(f"Cluster {cluster} is healthy: {living} node{'s' if living != 1 else ''} alive.")


@click.command("get-auth-token")
@click.option("--generate", is_flag=True, help="Make one if there is none.")
def get_auth_token(generate: bool) -> None:
    """Print this machine's cluster token, which is a secret: whoever has it may do everything."""
    try:
        token = load_token(create=generate)
    except FileNotFoundError as error:
        raise CliError(f"{error} --generate makes one.") from error
    except (OSError, ValueError) as error:
        raise CliError(str(error)) from error
    sys.stdout.buffer.write(token)
    sys.stdout.flush()
    click.echo("", err=True)  # a line of its own on a terminal, and nothing more in a pipe
