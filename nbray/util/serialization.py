"""Pickling of classes that cannot be pickled by themselves."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def register_serializer(
    cls: type[T], *, serializer: Callable[[T], Any], deserializer: Callable[[Any], T]
) -> None:
    """Say how instances of ``cls`` are pickled in this process, by nbray and by others.

    It holds where it is called: a worker that returns such values has to register the class too.
    Subclasses are not meant.

    Args:
        cls: the class.
        serializer: gives of an instance something that can be pickled.
        deserializer: makes the instance of it; it is pickled along.

    Examples:
        >>> import threading
        >>> from nbray.util import deregister_serializer, register_serializer
        >>> class Guarded:
        ...     def __init__(self, value):
        ...         self.value, self.lock = value, threading.Lock()
        >>> register_serializer(
        ...     Guarded, serializer=lambda guarded: guarded.value, deserializer=Guarded
        ... )
        >>> nbray.get(nbray.put(Guarded(5))).value
        5
        >>> deregister_serializer(Guarded)
    """

    def reduce(value: T) -> tuple[Callable[[Any], T], tuple[Any]]:
        return deserializer, (serializer(value),)

    # The registry of the standard library's pickle, which cloudpickle looks into as well.
    copyreg.pickle(cls, reduce)


def deregister_serializer(cls: type) -> None:
    """Take back what was registered for ``cls``, if anything was.

    Args:
        cls: the class.

    Examples:
        >>> from nbray.util import deregister_serializer
        >>> deregister_serializer(complex)
    """
    copyreg.dispatch_table.pop(cls, None)
