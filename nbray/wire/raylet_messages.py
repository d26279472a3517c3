"""The messages of the gRPC service between raylets."""

from __future__ import annotations

import msgspec

from nbray.wire.object_messages import CopiesChanged


class DropObjects(msgspec.Struct, array_like=True, tag=1):
    """Nobody refers to these objects any more.

    With ``maker``: those of them that this worker made.
    """

    object_ids: list[bytes]
    maker: bytes = b""


class TellOwner(msgspec.Struct, array_like=True, tag=2):
    """To the raylet of an owner: pass that on to it. Also a call of its own, for who waits."""

    owner_id: bytes
    news: CopiesChanged


class KeepObjects(msgspec.Struct, array_like=True, tag=3):
    """Your copies of these are the only ones."""

    object_ids: list[bytes]


class ProcessGone(msgspec.Struct, array_like=True, tag=4):
    """A process of the sender ended, and with ``job_id`` its job."""

    worker_id: bytes
    job_id: bytes = b""


News = DropObjects | TellOwner | KeepObjects | ProcessGone


class TakeNews(msgspec.Struct, array_like=True):
    """Raylet to raylet: what you have to know, in this order. Answered by `Empty`.

    Attributes:
        sender: random bytes of the process that sends it.
        number: higher than of all that it sent before; the same when it is repeated.
        news: what is told.
    """

    sender: bytes
    number: int
    news: list[News]


class FindProcess(msgspec.Struct, array_like=True):
    """Raylet to another: does that process of yours live? Answered by `ProcessFound`."""

    worker_id: bytes


class ProcessFound(msgspec.Struct, array_like=True):
    """Whether it does; one that is being ended lives until it has ended."""

    alive: bool
