"""ObjectRef: the handle of a value that is, or will be, somewhere in the cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from nbray.common.ids import NIL, JobID, ObjectID, TaskID
from nbray.wire.records import Address

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

_Future = TypeVar("_Future", bound="concurrent.futures.Future[Any]")


class _Wakes(Protocol):
    """Who counts the references that die; has been ``nudged`` while it has not looked since."""

    stopped: bool
    nudged: bool

    def nudge(self) -> None:
        """There is something to count before long."""


class RefHome(Protocol):
    """The process as its ObjectRefs see it."""

    released: deque[tuple[bytes, int]]
    pickled_refs: set[ObjectRef]

    @property
    def reactor(self) -> _Wakes:
        """Who counts."""

    @property
    def values(self) -> Any:
        """The readers of values, whose threads callbacks of futures use."""

    def call_site(self, object_id: bytes) -> str:
        """The line that made a ref, if such are recorded."""

    def future(self, ref: ObjectRef) -> concurrent.futures.Future[Any]:
        """A future of its value."""

    def settle(self, ref: ObjectRef, future: _Future) -> _Future:
        """Have ``future`` set when the value is there."""


class _NoReactor:
    stopped = True
    nudged = False

    def nudge(self) -> None:
        """Nobody counts."""


class _NoProcess:
    """Stands for the process of a ref whose owner nobody knows: each use of it is refused."""

    def __init__(self) -> None:
        self.released: deque[tuple[bytes, int]] = deque(maxlen=0)
        self.reactor = _NoReactor()


_NO_PROCESS: Any = _NoProcess()
_NOBODY = Address(b"", b"", "", "", 0)


class ObjectRef:
    """A future of one value. `get` it, pass it to tasks, or `await` it.

    Only nbray makes refs that have a value. One that is made of an id alone compares and prints
    as the others, and each use of its value raises ValueError, since its owner is not known.

    Args:
        object_id: the id, 28 bytes.
        owner: where the process is that owns the value; nbray sets it.
        core: the runtime of this process; nbray sets it.
        origin: the number of the notebook's cell that made it; 0 for none.

    Examples:
        >>> ref = nbray.put([1, 2])
        >>> nbray.ObjectRef.from_hex(ref.hex()) == ref
        True

        >>> import asyncio
        >>> async def value():
        ...     return await ref
        >>> asyncio.run(value())
        [1, 2]
        >>> ref.future().result(timeout=10)
        [1, 2]
    """

    __slots__ = ("__weakref__", "_core", "_id", "_origin", "_owner")

    def __init__(
        self,
        object_id: bytes,
        owner: Address | None = None,
        core: RefHome = _NO_PROCESS,
        origin: int = 0,
    ) -> None:
        self._origin = origin
        self._id = object_id
        self._core = core
        if owner is None:
            self._owner = _NOBODY
            ObjectID(object_id)  # its length is checked
        else:
            self._owner = owner

    __class_getitem__: Any = classmethod(GenericAlias)
    """``ObjectRef[int]`` in annotations: the ref of an int."""

    def __del__(self) -> None:
        core = self._core
        core.released.append((self._id, -1))
        reactor = core.reactor
        if not reactor.nudged:
            reactor.nudge()

    @classmethod
    def nil(cls) -> ObjectRef:
        """The ref of nothing."""
        return cls(NIL)

    @classmethod
    def from_random(cls) -> ObjectRef:
        """A ref that nobody else has, of no value."""
        return cls(ObjectID.from_random().binary())

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> ObjectRef:
        """A ref of the id that `binary` gave, without its value.

        Args:
            id_bytes: 28 bytes.

        Returns:
            The ref, whose value cannot be read.
        """
        return cls(id_bytes)

    @classmethod
    def from_hex(cls, hex_id: str) -> ObjectRef:
        """A ref of the id that `hex` gave, without its value.

        Args:
            hex_id: 56 hexadecimal digits.

        Returns:
            The ref, whose value cannot be read.
        """
        return cls(bytes.fromhex(hex_id))

    def binary(self) -> bytes:
        """The id as 28 bytes."""
        return self._id

    def hex(self) -> str:
        """The id as hexadecimal text."""
        return self._id.hex()

    @classmethod
    def size(cls) -> int:
        """How many bytes the id has."""
        return ObjectID.SIZE

    def is_nil(self) -> bool:
        """Whether it stands for no value, as a generator's next that has not come in time."""
        return self._id == NIL

    def task_id(self) -> TaskID:
        """The id of the task that makes the value."""
        return ObjectID(self._id).task_id()

    def job_id(self) -> JobID:
        """The id of the job whose task makes the value."""
        return ObjectID(self._id).job_id()

    def call_site(self) -> str:
        """The line that made the ref, when ``NBRAY_RECORD_REF_CREATION_SITES`` is set; else ""."""
        return self._core.call_site(self._id)

    def future(self) -> concurrent.futures.Future[Any]:
        """A `concurrent.futures.Future` of the value.

        Its callbacks run in a thread of their own, in the order of completion, and may use the
        cluster; one that waits for long lets others pass.

        Raises:
            ValueError: the owner is not known.
        """
        self._check()
        return self._core.future(self)

    def as_future(self, _internal: bool = False) -> asyncio.Future[Any]:
        """A future of the value in the running event loop.

        Args:
            _internal: has no effect.

        Returns:
            An `asyncio.Future`.
        """
        self._check()
        # Its callback only tells the loop, so it needs no other thread.
        import asyncio  # who awaits has it
        import concurrent.futures

        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        return asyncio.wrap_future(self._core.settle(self, future))

    def _check(self) -> None:
        from nbray.core_worker.values.serialization import check_current

        check_current(self)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.as_future().__await__()

    def __reduce__(self) -> tuple[Any, ...]:
        from nbray.core_worker.values.serialization import reduce_ref

        return reduce_ref(self)

    def __copy__(self) -> ObjectRef:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> ObjectRef:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"
