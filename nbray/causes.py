"""A user's exception on its way: it comes back whole, and as one with the error of its task.

The pickle of an exception calls its class with its ``args``, which many classes do not take. So
an exception that does not say itself how it is pickled is taken apart into what the interpreter
keeps of it: its arguments, the fields of built-in classes and slots, its attributes and what led to
it. None of its class's own code runs, neither when it is put together again nor when it is joined
with a `TaskError`.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import traceback
from collections.abc import Callable
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from nbray.cloudpickle import Pickler

Packed = tuple[bytes, list[pickle.PickleBuffer]]
"""A pickle with its buffers."""

_HEAP_TYPE = 1 << 9
_FIELDS = (MemberDescriptorType, GetSetDescriptorType)
_UNTOLD = frozenset(
    {
        *("__class__", "__dict__", "__weakref__", "__traceback__", "__cause__", "__context__"),
        # What an attribute was looked for in may be anything; Python leaves it out, too.
        *("args", "obj"),
    }
)
_SAYS_ITSELF = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")
_args: Any = vars(BaseException)["args"]
_cause: Any = vars(BaseException)["__cause__"]
_context: Any = vars(BaseException)["__context__"]


# --- sent --------------------


def pack(error: BaseException | None, in_band: bool = False) -> Packed | None:
    """The pickle of an exception that can be read again; None when there is no such.

    Its own way of pickling is tried first, then ours, and at last ours without the attributes that
    cannot be pickled; arguments of that kind are replaced by their ``repr``.
    """
    if error is None:
        return None
    for kind in (_Pickler, _OurWay, _Parts):
        try:
            packed = _dump(kind, error, in_band)
            again = load(packed)
        except Exception:  # the code of the user's class; another way is tried
            continue
        if issubclass(type(again), BaseException):
            return packed
    return None


def load(packed: Packed) -> BaseException:
    """The exception that was packed.

    Raises:
        Exception: its class cannot be found here, or the class's own code raised.
    """
    stream, buffers = packed
    error: BaseException = pickle.loads(stream, buffers=buffers)
    return error


def _dump(kind: type[_Pickler], error: BaseException, in_band: bool) -> Packed:
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffer.raw()
        except BufferError:  # strided memory stays in the stream
            return True
        buffers.append(buffer)
        return False

    stream = io.BytesIO()
    kind(stream, protocol=5, buffer_callback=None if in_band else keep).dump(error)
    return stream.getvalue(), buffers


class _Pickler(Pickler):
    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if issubclass(kind, BaseException) and not self.leaves(kind):
            return self.taken_apart(value)
        return super().reducer_override(value)

    def leaves(self, kind: type) -> bool:
        """Whether the class says itself how it is pickled."""
        return kind in copyreg.dispatch_table or any(
            name in vars(cls)
            for cls in kind.__mro__
            if cls.__flags__ & _HEAP_TYPE
            for name in _SAYS_ITSELF
        )

    def taken_apart(self, error: BaseException) -> Any:
        return _put_together, (type(error), *_parts(error))


class _OurWay(_Pickler):
    def leaves(self, kind: type) -> bool:
        return kind.__module__ == "nbray.exceptions"


class _Parts(_OurWay):
    """Leaves out what cannot be pickled."""

    def __init__(self, file: Any, known: dict[int, bool] | None = None, **options: Any) -> None:
        super().__init__(file, **options)
        self._known = {} if known is None else known

    def taken_apart(self, error: BaseException) -> Any:
        args, fields, state, chain = _parts(error)
        args = tuple(value if self._can(value) else _shown(value) for value in args)
        fields = {name: value for name, value in fields.items() if self._can(value)}
        state = {name: value for name, value in state.items() if self._can(value)}
        chain = tuple(one if self._can(one) else None for one in chain)
        return _put_together, (type(error), args, fields, state, chain)

    def _can(self, value: Any) -> bool:
        if id(value) not in self._known:
            try:
                stream = io.BytesIO()
                _Parts(stream, self._known, protocol=5).dump(value)
                pickle.loads(stream.getvalue())
                self._known[id(value)] = True
            except Exception:  # the code of the user's class
                self._known[id(value)] = False
        return self._known[id(value)]


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return object.__repr__(value)


# --- taken apart --------------------

Parts = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any], tuple[BaseException | None, ...]]


def _parts(error: BaseException) -> Parts:
    """Arguments, fields, attributes, and its ``__cause__`` and ``__context__`` if they show."""
    fields: dict[str, Any] = {}
    for cls in type(error).__mro__:
        for name, field in vars(cls).items():
            if name in _UNTOLD or not isinstance(
                field, MemberDescriptorType | GetSetDescriptorType
            ):
                continue
            try:
                fields.setdefault(name, field.__get__(error))
            except AttributeError:
                continue  # it is not set
    args = _args.__get__(error)
    if isinstance(error, BaseExceptionGroup):
        args = fields.pop("message"), list(fields.pop("exceptions"))
    hidden = fields.get("__suppress_context__")
    chain = _cause.__get__(error), None if hidden else _context.__get__(error)
    return args, fields, dict(_attributes(error)), chain


def _attributes(error: BaseException) -> dict[str, Any]:
    attributes: dict[str, Any] = object.__getattribute__(error, "__dict__")
    return attributes


def _put_together(
    cls: type[BaseException],
    args: tuple[Any, ...],
    fields: dict[str, Any],
    state: dict[str, Any],
    chain: tuple[BaseException | None, ...],
) -> BaseException:
    """An exception of these parts, whose class runs no code of its own."""
    built_in: Any = cls
    while built_in.__flags__ & _HEAP_TYPE:
        built_in = built_in.__base__
    error: BaseException = built_in.__new__(cls, *args)
    if not isinstance(error, BaseExceptionGroup):
        _args.__set__(error, args)
    descriptors = {
        name: field
        for one in reversed(cls.__mro__)
        for name, field in vars(one).items()
        if name in fields and isinstance(field, _FIELDS)
    }
    for name, field in descriptors.items():
        try:
            if not _holds(field, error, fields[name]):
                field.__set__(error, fields[name])
        except (AttributeError, TypeError):
            continue  # it may not be set, or not to that
    _attributes(error).update(state)
    cause, context = chain
    hides = bool(fields.get("__suppress_context__"))
    _context.__set__(error, context)
    _cause.__set__(error, cause)  # which hides the context
    vars(BaseException)["__suppress_context__"].__set__(error, hides)
    return error


def _holds(field: Any, error: BaseException, value: Any) -> bool:
    """Whether the field has the value; None that is set is more than None that never was.

    ``str`` of an `OSError` shows each field that was set, whatever to.
    """
    try:
        return field.__get__(error) is value
    except AttributeError:
        return False


# --- joined --------------------


def joined(
    base: type[BaseException], cause: BaseException, title: str, replace: Callable[[Any], Exception]
) -> BaseException | None:
    """An exception of class ``base`` and of the cause's, with all that the cause has.

    Args:
        base: comes first; its ``__init_subclass__`` is the only one that is asked.
        cause: the exception.
        title: the name of the class.
        replace: makes an ordinary exception of a member of a group that is none.

    Returns:
        The exception, whose ``__cause__`` is the cause if that can be shown; None if there can be
        no such class.
    """
    kind = type(cause)
    args, fields, state, _chain = _parts(cause)
    if isinstance(cause, BaseExceptionGroup):
        args = args[0], [_ordinary(one, replace) for one in args[1]]
    namespace = {"__module__": base.__module__}
    makers: list[Callable[..., Any]] = [type, lambda *parts: type.__new__(type(kind), *parts)]
    for make in makers:  # the second one asks no metaclass
        try:
            both = make(title, (base, kind), dict(namespace))
            error = _put_together(both, args, fields, state, (_showable(cause), None))
        except Exception:  # the code of the user's class
            continue
        vars(BaseException)["__suppress_context__"].__set__(error, True)
        return error
    return None


def _showable(error: BaseException) -> BaseException | None:
    """The exception, unless it hinders whoever prints a traceback in which it stands."""
    try:
        traceback.TracebackException.from_exception(error)
    except Exception:  # the code of the user's class
        return None
    return error


def _ordinary(error: BaseException, replace: Callable[[Any], Exception]) -> Exception:
    """A member of a group, in which no interrupt may stand that would look like a new one."""
    if isinstance(error, Exception):
        return error
    if isinstance(error, BaseExceptionGroup):
        members = [_ordinary(one, replace) for one in error.exceptions]
        return ExceptionGroup(error.message, members)
    return replace(error)
