"""On which nodes the values of refs are, at Ray's path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbray.core_worker.current import joined_core
from nbray.object_ref import ObjectRef
from nbray.state.lists import list_objects
from nbray.state.local_state import describe


def _location(nodes: Sequence[str], size: int | None) -> dict[str, Any]:
    return {"node_ids": list(nodes), "object_size": size, "did_spill": False}


def get_local_object_locations(obj_refs: Sequence[ObjectRef]) -> dict[ObjectRef, dict[str, Any]]:
    """What this process knows of the values, without asking anybody.

    Args:
        obj_refs: refs.

    Returns:
        For each ref that it knows: ``node_ids``, empty for a small value, which lies in its
        owner's memory, and for one that is not made yet; ``object_size`` in bytes, None when that
        is not known; ``did_spill``, which is always False.

    Raises:
        NbraySystemError: this program has not joined a cluster.

    Examples:
        >>> from nbray.experimental import get_local_object_locations
        >>> ref = nbray.put(bytes(1_000_000))
        >>> get_local_object_locations([ref])[ref]["object_size"] > 1_000_000
        True
    """
    joined_core()
    found = {ref: describe(ref) for ref in obj_refs}
    return {
        ref: _location([node.hex() for node in facts.nodes], facts.size)
        for ref, facts in found.items()
        if facts.state != "unknown"
    }


def get_object_locations(
    obj_refs: Sequence[ObjectRef], timeout_ms: int = -1
) -> dict[ObjectRef, dict[str, Any]]:
    """The same of the values of any owner; who does not know asks the owners.

    Args:
        obj_refs: refs.
        timeout_ms: how long the owners have to answer; negative: 30 s.

    Returns:
        As `get_local_object_locations`.

    Raises:
        StateApiException: the cluster did not answer in time.

    Examples:
        >>> from nbray.experimental import get_object_locations
        >>> ref = nbray.put(bytes(1_000_000))
        >>> get_object_locations([ref])[ref]["node_ids"] == [nbray.nodes()[0]["NodeID"]]
        True
    """
    found = get_local_object_locations(obj_refs)
    unknown = {ref.hex(): ref for ref in obj_refs if found.get(ref, {}).get("object_size") is None}
    if unknown:
        seconds = 30 if timeout_ms < 0 else max(1, timeout_ms // 1000)
        for row in list_objects(limit=10_000, timeout=seconds, raise_on_missing_output=False):
            if row.is_owner and row.object_id in unknown:
                found[unknown[row.object_id]] = _location(row.node_ids, row.object_size)
    return found
