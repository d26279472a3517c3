"""Small questions to the cluster: the address of this node, and the names of actors."""

from __future__ import annotations

import os

from nbray.common.addresses import own_address
from nbray.core_worker.current import find_core
from nbray.driver.driver import current_core
from nbray.state.lists import list_actors


def get_node_instance_id() -> str:
    """What a cloud calls this machine, if whoever started its node has said so.

    Returns:
        The variable ``RAY_CLOUD_INSTANCE_ID``, as in Ray; an empty text without it.

    Examples:
        >>> from nbray.util import get_node_instance_id
        >>> get_node_instance_id()
        ''
    """
    return os.environ.get("RAY_CLOUD_INSTANCE_ID", "")


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """The address of this node; before `nbray.init` the one from which ``address`` is reached.

    Args:
        address: "host:port" that has to be reached, of which nothing is asked.

    Returns:
        An IP address.

    Examples:
        >>> from nbray.util import get_node_ip_address
        >>> get_node_ip_address() == nbray.nodes()[0]["NodeManagerAddress"]
        True
    """
    core = find_core()
    if core is not None:
        return core.address.host
    try:
        return own_address(address)
    except OSError:  # there is no way to it: a machine without a network
        return "127.0.0.1"


def list_named_actors(all_namespaces: bool = False) -> list[str] | list[dict[str, str]]:
    """The named actors that are not dead.

    Args:
        all_namespaces: those of all namespaces.

    Returns:
        Names in this program's namespace; for all of them, dicts with "name" and "namespace".

    Examples:
        >>> from nbray.util import list_named_actors
        >>> @nbray.remote
        ... class Store: ...
        >>> store = Store.options(name="a store").remote()
        >>> "a store" in list_named_actors()
        True
    """
    own = current_core().job.namespace
    rows = [row for row in list_actors(filters=[("state", "!=", "DEAD")], limit=10_000) if row.name]
    if not all_namespaces:
        return [str(row.name) for row in rows if row.ray_namespace == own]
    return [{"name": str(row.name), "namespace": row.ray_namespace or ""} for row in rows]
