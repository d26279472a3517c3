"""ObjectRef: the handle of a value that is, or will be, somewhere in the cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from itertools import repeat
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import msgspec

from nbray.common.ids import NIL, JobID, ObjectID, TaskID
from nbray.common.interrupts import finalizer, interrupt_again
from nbray.wire.records import Address

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    from inspect import Signature

    from msgspec import StructMeta
else:
    StructMeta = type(msgspec.Struct)

_Future = TypeVar("_Future", bound="concurrent.futures.Future[Any]")


class Wakes(Protocol):
    """Who counts the references that die; has been ``nudged`` while it has not looked since."""

    nudged: bool

    def nudge(self) -> None:
        """There is something to count before long."""


class _Counts(Wakes, Protocol):
    """The same for a whole process."""

    stopped: bool
    abandoned: bool


class RefHome(Protocol):
    """The process as its ObjectRefs see it.

    Attributes:
        kin: of the refs of its own objects.
        pickled_refs: those that the program pickled itself.
    """

    kin: Kin
    pickled_refs: set[ObjectRef]

    @property
    def reactor(self) -> _Counts:
        """Who counts."""

    @property
    def values(self) -> Any:
        """The readers of values, whose threads callbacks of futures use."""

    def kin_of_cell(self, origin: int) -> Kin:
        """That of the refs which a cell of the notebook makes."""

    def call_site(self, object_id: bytes) -> str:
        """The line that made a ref, if such are recorded."""

    def reduced(self, ref: ObjectRef) -> tuple[Any, ...]:
        """How a ref pickles."""

    def future(self, ref: ObjectRef) -> concurrent.futures.Future[Any]:
        """A future of its value."""

    def settle(self, ref: ObjectRef, future: _Future) -> _Future:
        """Have ``future`` set when the value is there."""


class Kin(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What refs have in common whose objects have one owner: there may be millions of refs.

    The collector does not know it, and so none of its refs. It leads to the process, which leads
    here until it has left the cluster.

    Attributes:
        core: the runtime of this process.
        owner: where the process is that owns the values.
        died: takes the id of each ref that dies.
        wakes: is told when one has died.
        origin: the number of the notebook's cell that made them; 0 for none.
    """

    core: RefHome
    owner: Address
    died: deque[bytes]
    wakes: Wakes
    origin: int = 0

    def at(self, origin: int) -> Kin:
        """Such refs that this cell of the notebook makes."""
        return Kin(self.core, self.owner, self.died, self.wakes, origin)

    def of(self, owner: Address) -> Kin:
        """Such refs of objects of ``owner``."""
        if owner.worker_id == self.owner.worker_id:
            return self
        return Kin(self.core, owner, self.died, self.wakes)


class _NoReactor:
    stopped = True
    abandoned = False
    nudged = True

    def nudge(self) -> None:
        """Nobody counts."""


class _NoProcess:
    """Stands for the process of a ref whose owner nobody knows: each use of it is refused."""

    reactor = _NoReactor()

    def call_site(self, _object_id: bytes) -> str:
        """Nobody knows."""
        return ""


_no_process: Any = _NoProcess()
UNKNOWN = Kin(_no_process, Address(b"", b"", "", "", 0), deque(maxlen=0), _no_process.reactor)
"""Of refs that this process cannot use."""


class _Checked(StructMeta):
    """What a program makes itself is checked; nbray calls the maker behind this (`make_ref`)."""

    def __call__(cls, object_id: bytes) -> ObjectRef:
        ObjectID(object_id)  # its length is checked
        return make_ref(object_id, UNKNOWN)

    @property
    def __signature__(cls) -> Signature:
        from inspect import signature

        return signature(_Checked.__call__.__get__(cls))


class ObjectRef(msgspec.Struct, eq=False, weakref=True, metaclass=_Checked):
    """A future of one value. `get` it, pass it to tasks, or `await` it.

    Only nbray makes refs that have a value. One that is made of an id alone compares and prints
    as the others, and each use of its value raises ValueError, since its owner is not known.

    Args:
        object_id: the id, 28 bytes.

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

    _id: bytes
    _kin: Kin = msgspec.field(default_factory=lambda: UNKNOWN)

    if TYPE_CHECKING:
        # What the metaclass takes of it, for who reads types and the reference.
        def __init__(self, object_id: bytes) -> None: ...

    __class_getitem__: ClassVar[Any] = classmethod(GenericAlias)
    """``ObjectRef[int]`` in annotations: the ref of an int."""

    @finalizer
    def __del__(self) -> None:
        try:
            kin = self._kin
            kin.died.append(self._id)
            wakes = kin.wakes
            if not wakes.nudged:
                wakes.nudge()
        except KeyboardInterrupt:
            interrupt_again()

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
        return self._kin.core.call_site(self._id)

    def future(self) -> concurrent.futures.Future[Any]:
        """A `concurrent.futures.Future` of the value.

        Its callbacks run in a thread of their own, in the order of completion, and may use the
        cluster; one that waits for long lets others pass.

        Raises:
            ValueError: the owner is not known.
        """
        self._check()
        return self._kin.core.future(self)

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
        return asyncio.wrap_future(self._kin.core.settle(self, future))

    def _check(self) -> None:
        """Refuse it when this process has kept it from before a `shutdown`, or a fork.

        Raises:
            ValueError: it has; the text begins as Ray's.
        """
        reactor = self._kin.core.reactor
        if reactor.stopped:
            why = (
                "The ref is of the process that this one is a fork of, and no part of it."
                if reactor.abandoned
                else "The ref is of an earlier session, whose objects went with nbray.shutdown(), "
                "or it was made from an id, which does not tell the owner."
            )
            raise ValueError(
                "An application is trying to access an object whose owner is unknown "
                f"({self.hex()}). {why}"
            )

    def __await__(self) -> Generator[Any, None, Any]:
        return self.as_future().__await__()

    def __reduce__(self) -> tuple[Any, ...]:
        self._check()
        return self._kin.core.reduced(self)

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

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("object_id", self._id.hex())]


_make: Any = StructMeta.__call__
make_ref: Callable[[bytes, Kin], ObjectRef] = partial(_make, ObjectRef)
"""A ref of an object; the caller counts it."""


def make_refs(object_ids: Sequence[bytes], kin: Kin) -> list[ObjectRef]:
    """A ref of each, made without a call of Python."""
    return list(map(_make, repeat(ObjectRef), object_ids, repeat(kin)))
