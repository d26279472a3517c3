"""The messages of the gRPC service between raylets."""

from __future__ import annotations

import msgspec

from nbray.wire.object_messages import CopiesChanged


class DropObjects(msgspec.Struct, array_like=True):
    """Raylet to raylet: nobody refers to these objects any more. Answered by `Empty`.

    With ``maker``: those of them that this worker made.
    """

    object_ids: list[bytes]
    maker: bytes = b""


class TellOwner(msgspec.Struct, array_like=True):
    """Raylet to the raylet of an owner: pass that on to it. Answered by `Empty`."""

    owner_id: bytes
    news: CopiesChanged


class KeepObjects(msgspec.Struct, array_like=True):
    """Raylet to raylet: your copies of these are the only ones. Answered by `Empty`."""

    object_ids: list[bytes]


class ProcessGone(msgspec.Struct, array_like=True):
    """Raylet to the others: that process ended, and with ``job_id`` its job. By `Empty`."""

    worker_id: bytes
    job_id: bytes = b""


class FindProcess(msgspec.Struct, array_like=True):
    """Raylet to another: does that process of yours live? Answered by `ProcessFound`."""

    worker_id: bytes


class ProcessFound(msgspec.Struct, array_like=True):
    """Whether it does; one that is being ended lives until it has ended."""

    alive: bool
