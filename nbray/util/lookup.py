"""Small questions to the cluster: the address of this node, and the names of actors."""

from __future__ import annotations

from nbray.driver import current_core
from nbray.util.state import list_actors


def get_node_ip_address() -> str:
    """The address by which other nodes reach this one."""
    return current_core().address.host


def list_named_actors(all_namespaces: bool = False) -> list[str] | list[dict[str, str]]:
    """The named actors that are not dead.

    Args:
        all_namespaces: those of all namespaces.

    Returns:
        Names in this program's namespace; for all of them, dicts with "name" and "namespace".
    """
    own = current_core().job.namespace
    rows = [row for row in list_actors(filters=[("state", "!=", "DEAD")], limit=10_000) if row.name]
    if not all_namespaces:
        return [str(row.name) for row in rows if row.ray_namespace == own]
    return [{"name": str(row.name), "namespace": row.ray_namespace or ""} for row in rows]
