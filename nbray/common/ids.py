"""Ids of the things of a cluster: bytes of a fixed length, with Ray's names and sizes."""

from __future__ import annotations

import builtins
import itertools
import os
import struct
from typing import Self

NIL = b"\xff" * 28
"""Of which the id of nothing, of each kind, is the beginning."""


class BaseID:
    """An id: compares, hashes and prints by its bytes.

    Args:
        value: the id; its length is the class's.

    Raises:
        TypeError: it is made of something else than bytes.
        ValueError: of too many or too few; both texts are Ray's.
    """

    SIZE = 0
    __slots__ = ("_bytes",)

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise TypeError(f"Unsupported type: {type(value)}, expected bytes")
        if len(value) != self.SIZE:
            raise ValueError(f"ID string needs to have length {self.SIZE}, got {len(value)}")
        self._bytes = value

    @classmethod
    def from_random(cls) -> Self:
        """A new id that nobody else has."""
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> Self:
        """The id of which `binary` gave ``id_bytes``.

        Args:
            id_bytes: the id.

        Returns:
            An equal id.
        """
        return cls(id_bytes)

    @classmethod
    def from_hex(cls, hex_id: str) -> Self:
        """The id that `hex` printed.

        Args:
            hex_id: two hexadecimal digits for each byte.

        Returns:
            An equal id.
        """
        return cls(bytes.fromhex(hex_id))

    @classmethod
    def nil(cls) -> Self:
        """The id of nothing."""
        return cls(NIL[: cls.SIZE])

    @classmethod
    def size(cls) -> int:
        """How many bytes an id has."""
        return cls.SIZE

    def is_nil(self) -> bool:
        """Whether it is the id of nothing."""
        return self._bytes == NIL[: self.SIZE]

    def binary(self) -> bytes:
        """The id as bytes."""
        return self._bytes

    def hex(self) -> str:
        """The id as hexadecimal text."""
        return self._bytes.hex()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._bytes == self._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"


class JobID(BaseID):
    """One driver's time in the cluster.

    Examples:
        >>> nbray.JobID.from_int(7).int()
        7
    """

    SIZE = 4

    @classmethod
    def from_int(cls, value: builtins.int) -> JobID:
        """The job of that number.

        Args:
            value: the number, from 0.

        Returns:
            The id.
        """
        return cls(value.to_bytes(cls.SIZE, "little"))

    def int(self) -> builtins.int:
        """The job's number."""
        return builtins.int.from_bytes(self._bytes, "little")


class _OfJob(BaseID):
    """An id whose bytes from ``_JOB`` on are its job's id."""

    _JOB = slice(-JobID.SIZE, None)
    __slots__ = ()

    def job_id(self) -> JobID:
        """The job that it belongs to."""
        return JobID(self._bytes[self._JOB])


class UniqueID(BaseID):
    """An id that says nothing of what it belongs to.

    Examples:
        >>> nbray.UniqueID.nil().is_nil(), nbray.UniqueID.size()
        (True, 28)
    """

    SIZE = 28


class NodeID(UniqueID):
    """One raylet.

    Examples:
        >>> node = nbray.NodeID.from_hex(nbray.get_runtime_context().get_node_id())
        >>> node == nbray.get_runtime_context().node_id
        True
    """


class WorkerID(UniqueID):
    """One worker or driver process.

    Examples:
        >>> worker = nbray.WorkerID.from_random()
        >>> nbray.WorkerID.from_binary(worker.binary()) == worker
        True
    """


class ActorID(_OfJob):
    """One actor; its last 4 bytes are its job's id.

    Examples:
        >>> nbray.ActorID.size(), nbray.ActorID.nil().job_id().is_nil()
        (16, True)
    """

    SIZE = 16


class PlacementGroupID(_OfJob):
    """One placement group; its last 4 bytes are its job's id.

    Examples:
        >>> nbray.PlacementGroupID.size()
        18
    """

    SIZE = 18


class TaskID(_OfJob):
    """One task; its last 4 bytes are its job's id.

    Examples:
        >>> task = nbray.put(1).task_id()
        >>> isinstance(task, nbray.TaskID), task.job_id().hex()[:2]
        (True, '01')
    """

    SIZE = 24


class ObjectID(_OfJob):
    """One object: the task that makes it and the number of the return value."""

    SIZE = 28
    _JOB = slice(TaskID.SIZE - JobID.SIZE, TaskID.SIZE)

    def task_id(self) -> TaskID:
        """The task that makes the object."""
        return TaskID(self._bytes[:24])


FIRST = (1).to_bytes(4, "little")
"""What follows a task's id in the object id of its first value."""


class TaskIDFactory:
    """Makes the task ids of one process: unique, growing as bytes, and cheap on the hot path."""

    def __init__(self, job_id: bytes) -> None:
        self._prefix = os.urandom(12)
        self._job_id = job_id
        self._first = job_id + FIRST
        self._numbers = map(struct.Struct(">Q").pack, itertools.count(1))

    def __call__(self) -> bytes:
        return self._prefix + next(self._numbers) + self._job_id

    def first(self) -> bytes:
        """The id of the first object of a new task, which begins with the task's."""
        return self._prefix + next(self._numbers) + self._first


def return_id(task_id: bytes, index: int) -> bytes:
    """The object id of return value ``index`` (from 0) of a task."""
    return task_id + (index + 1).to_bytes(4, "little")


def return_index(object_id: bytes) -> int:
    """Which return value of its task an object is (from 0)."""
    return int.from_bytes(object_id[24:], "little") - 1


_NO_VALUE = bytes(12)


def handle_id(actor_id: bytes) -> bytes:
    """The object id by which the handles of an actor are counted."""
    return actor_id + _NO_VALUE


def creation_id(actor_id: bytes) -> bytes:
    """The task id of an actor's constructor."""
    return b"\xff" * 8 + actor_id


def is_creation_id(task_id: bytes) -> bool:
    """Whether a task id is that of an actor's constructor."""
    return task_id.startswith(b"\xff" * 8)


def actor_of(object_id: bytes) -> bytes:
    """The actor of `handle_id`; empty for the id of a value."""
    return object_id[:16] if object_id.endswith(_NO_VALUE) else b""
