"""Messages about objects: their owners and borrowers, the store, and where copies are."""

from __future__ import annotations

import msgspec

from nbray.wire.causes import Cause
from nbray.wire.records import Address, Index, ObjectRow, Size, Stored, Value

# --- ownership: a borrower and an owner -----------------------------------------------


class RequestValue(msgspec.Struct, array_like=True, tag=30):
    """Borrower to owner. Answered by `ValueReady` once the object is complete."""

    object_id: bytes


class ValueReady(msgspec.Struct, array_like=True, tag=31):
    """Owner to borrower; ``value`` is None when the owner does not know the object."""

    object_id: bytes
    value: Value | None


class AddBorrower(msgspec.Struct, array_like=True, tag=32):
    """To an owner: that worker holds the objects too. Answered by `BorrowerAdded`."""

    object_ids: list[bytes]
    borrower: Address
    request_id: int = 0


class BorrowerAdded(msgspec.Struct, array_like=True, tag=33):
    """Owner: noted; the sender may drop its own hold."""

    request_id: int


class RemoveBorrower(msgspec.Struct, array_like=True, tag=34):
    """Borrower to owner: a registration of mine is over, for each time that an id stands here."""

    object_ids: list[bytes]
    borrower_id: bytes


# --- objects: a process and its raylet ------------------------------------------------


class CreateObject(msgspec.Struct, array_like=True, tag=40):
    """Process to raylet: room for an object of ``size`` bytes. Answered by `ObjectCreated`."""

    object_id: bytes
    size: Size
    owner: Address
    label: str = ""


class ObjectCreated(msgspec.Struct, array_like=True, tag=41):
    """Raylet to process: write at ``offset`` of the arena or of ``path``, then seal.

    Or ``cause``: the arena or the disk is full, or the raylet failed.
    """

    object_id: bytes
    offset: Size
    cause: Cause | None = None
    path: str = ""


class SealObject(msgspec.Struct, array_like=True, tag=42):
    """Process to raylet: the object is complete and may be read."""

    object_id: bytes


class GetObject(msgspec.Struct, array_like=True, tag=43):
    """Process to raylet: bring it here if needed and pin it. Answered by `ObjectPinned`."""

    object_id: bytes
    stored: Stored
    owner: Address


class ObjectPinned(msgspec.Struct, array_like=True, tag=44):
    """Raylet to process: it stays at ``offset`` until unpinned, of the arena or of ``path``.

    Or ``cause``, as in `ObjectCreated`, or no copy was found.
    """

    object_id: bytes
    offset: Size
    size: Size
    cause: Cause | None = None
    path: str = ""


class UnpinObjects(msgspec.Struct, array_like=True, tag=45):
    """Process to raylet: one pin less for each."""

    object_ids: list[bytes]


class FreeObjects(msgspec.Struct, array_like=True, tag=46):
    """Owner to its raylet: nobody refers to them; every node forgets its copy.

    With ``maker``: only the copies that this worker made.
    """

    object_ids: list[bytes]
    node_ids: list[bytes] = []
    maker: bytes = b""


class DiscardObject(msgspec.Struct, array_like=True, tag=47):
    """Process to raylet: nobody will use what I made, or began to make, under this id."""

    object_id: bytes


# --- allocation buffers: a process that puts many values, and its raylet -------------------


class RequestBuffer(msgspec.Struct, array_like=True, tag=140):
    """Process to raylet: a buffer for values that I am going to put. Answered by `BufferLent`."""


class BufferLent(msgspec.Struct, array_like=True, tag=141):
    """Raylet to process: ``size`` bytes from ``offset`` on are yours; none when it is scarce."""

    offset: Size
    size: Size


class ObjectWritten(msgspec.Struct, array_like=True, tag=142):
    """Process to raylet: a complete object lies at ``offset`` of my room; without ``owner`` mine.

    Under the id of another owner it is the first value ever, so that a free which came before it
    can only mean this one.
    """

    object_id: bytes
    offset: Size
    size: Size
    label: str = ""
    owner: Address | None = None


class ReturnBuffer(msgspec.Struct, array_like=True, tag=143):
    """Process to raylet: I do not need that part of my room."""

    offset: Size
    size: Size


class ReclaimBuffer(msgspec.Struct, array_like=True, tag=144):
    """Raylet to processes: somebody waits; return your buffer."""


# --- where the copies of an object are ----------------------------------------------------


class CopiesChanged(msgspec.Struct, array_like=True, tag=145):
    """Raylet to owner: node ``node_id`` has copies of these objects, or has them no more.

    With ``maker``: that worker made them and has died. It may not have told the owner, who then
    never heard of them, and sends `FreeObjects`.
    """

    object_ids: list[bytes]
    node_id: bytes
    added: bool
    maker: bytes = b""


class RequestLocations(msgspec.Struct, array_like=True, tag=146):
    """Borrower to owner: no node of ``tried`` has it; who does? Answered by `Locations`.

    When every copy is lost, the answer comes when the value has been made again.
    """

    request_id: int
    object_id: bytes
    tried: list[bytes]


class Locations(msgspec.Struct, array_like=True, tag=147):
    """Owner to borrower: the value now; None when the owner does not know the object."""

    request_id: int
    value: Value | None


class KeepCopies(msgspec.Struct, array_like=True, tag=148):
    """Owner to its raylet: those of ``node_id`` are the only copies now; it must keep them."""

    object_ids: list[bytes]
    node_id: bytes


# --- what objects processes hold --------------------------------------------------------


class TellObjects(msgspec.Struct, array_like=True, tag=159):
    """Raylet to its processes: which objects do you hold? Answered by `ObjectsTold`."""

    request_id: int
    limit: Index


class ObjectsTold(msgspec.Struct, array_like=True, tag=160):
    """Process to raylet: the largest; ``owned`` and ``owned_bytes`` count all that it owns."""

    request_id: int
    rows: list[ObjectRow]
    owned: Index = 0
    owned_bytes: Size = 0
