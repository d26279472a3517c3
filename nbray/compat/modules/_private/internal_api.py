"""``ray._private.internal_api``."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from nbray.common.ignoring import ignore
from nbray.object_ref import ObjectRef
from nbray.state.lists import list_nodes, list_objects

__all__ = ["free", "global_gc", "memory_summary"]


def free(object_refs: ObjectRef | Sequence[ObjectRef], local_only: bool = False) -> None:
    """Take refs whose values may go, which has no effect: a value goes with its last ref.

    Raises:
        TypeError: something else than refs was given.
    """
    refs = [object_refs] if isinstance(object_refs, ObjectRef) else object_refs
    if not all(isinstance(ref, ObjectRef) for ref in refs):
        raise TypeError(f"free() expects a list of ObjectRef, got {type(object_refs)}")
    ignore("ray._private.internal_api", ("free()",))


def global_gc() -> None:
    """Run the garbage collector of this process."""
    gc.collect()


def memory_summary(
    address: str | None = None,
    group_by: str = "NODE_ADDRESS",
    sort_by: str = "OBJECT_SIZE",
    units: str = "B",
    line_wrap: bool = True,
    stats_only: bool = False,
    num_entries: int | None = None,
) -> str:
    """The objects of the cluster as text; the command ``nbray memory`` shows more.

    Only ``address``, ``stats_only`` and ``num_entries`` have an effect.
    """
    lines = [
        f"--- Object store of node {node.node_id}: {node.stats.get('store_used', 0):.0f} of "
        f"{node.stats.get('store_total', 0):.0f} bytes in use, "
        f"{node.stats.get('store_spilled', 0):.0f} on disk ---"
        for node in list_nodes(address, limit=10_000)
        if node.state == "ALIVE"
    ]
    if not stats_only:
        rows = list_objects(address, limit=10_000 if num_entries is None else num_entries)
        lines += [
            f"{row.ip} {row.pid} {row.type} {row.call_site or 'disabled'} {row.task_status} "
            f"{row.object_size} {row.reference_type} {row.object_id}"
            for row in rows
        ]
    return "\n".join(lines)
