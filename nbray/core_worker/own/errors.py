"""The values of objects that are gone: the errors that say so."""

from __future__ import annotations

from nbray.core_worker.values.serialization import serialize
from nbray.exceptions import ObjectLostError, OwnerDiedError
from nbray.wire.records import Value


def error_value(error: BaseException) -> Value:
    """The value that is this error."""
    return Value(serialize(error).to_bytes(), None, True)


def lost(object_id: bytes) -> Value:
    """What is left of an object that its owner does not know."""
    return error_value(
        ObjectLostError(
            f"Failed to retrieve object {object_id.hex()}. All copies of it have been lost: no "
            "node has one, and its owner does not know it."
        )
    )


def owner_died(object_id: bytes) -> Value:
    """What is left of an object whose owner is gone."""
    return error_value(
        OwnerDiedError(
            f"Failed to retrieve object {object_id.hex()}. The object's owner has exited: the "
            "process that made its ref has died, and the object with it."
        )
    )
