"""cloudpickle, at Ray's path; functions keep the names of their files.

Newer versions of cloudpickle forget where a function was written, so that its traceback has no
lines. Here the name travels beside the code.

A class that travels by value is known where it arrives by its number, so that one class stays one.
cloudpickle sets its members again with each arrival. In a driver that would alter the program's
own class under its hands: a class that a driver knows stays as it is there.
"""

from __future__ import annotations

import functools
import io
import sys
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import IO, Any, ClassVar

import cloudpickle as _library

from nbray.pickling.context_vars import reduce_context_var

__all__ = [
    "DEFAULT_PROTOCOL",
    "CloudPickler",
    "Pickler",
    "dump",
    "dumps",
    "load",
    "loads",
    "register_pickle_by_value",
    "unregister_pickle_by_value",
]

load = _library.load
loads = _library.loads
register_pickle_by_value = _library.register_pickle_by_value
unregister_pickle_by_value = _library.unregister_pickle_by_value
DEFAULT_PROTOCOL = _library.DEFAULT_PROTOCOL


def _named_code(filename: str, make: Callable[..., CodeType], *args: Any) -> CodeType:
    return make(*args).replace(co_filename=filename)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    make, args = _library.Pickler.dispatch_table[CodeType](code)
    return _named_code, (code.co_filename, make, *args)


class _Reducers(dict[type, Any]):
    """How classes are pickled; those of pyarrow are looked at when the first of them comes.

    It is asked for the class of each object, which a `ChainMap` would take twice as long for.
    """

    def __missing__(self, cls: type) -> Any:
        for reducers in _librarys:  # anybody may add to them
            if cls in reducers:
                return reducers[cls]
        if f"{cls.__module__}.".startswith("pyarrow."):
            from nbray.pickling.arrow_slices import reduce_slice, slices

            if issubclass(cls, slices()):
                return reduce_slice
        raise KeyError(cls)


BY_VALUE = (type, FunctionType)
_MAIN_OF_CHILD = "__mp_main__"
_librarys: list[Any] = _library.Pickler.dispatch_table.maps
_modules_by_value: set[str] = _library.cloudpickle._PICKLE_BY_VALUE_MODULES
_set_class = _library.cloudpickle._class_setstate
_whole: weakref.WeakSet[type] = weakref.WeakSet()
_keeps_classes = False


def keep_classes() -> None:
    """From now on a class that this process knows is not altered by one that arrives."""
    global _keeps_classes
    _keeps_classes = True


def _complete_class(cls: type, state: Any) -> type:
    if not (_keeps_classes and cls in _whole):
        _set_class(cls, state)
        _whole.add(cls)
    return cls


def arrived_classes() -> list[type]:
    """The classes that came by value, or left so, the newest first."""
    known: Mapping[str, type] = _library.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
    return list(known.values())[::-1]


def _keep_slots(cls: Any, arguments: tuple[Any, ...], state: tuple[Any, ...]) -> None:
    """The class that is made anew has slots too: else its instances do not fit the old one."""
    arguments[3]["__slots__"] = cls.__slots__
    members = state[0]
    for name in [n for n, member in members.items() if type(member) is MemberDescriptorType]:
        del members[name]


def _is_found_by_name(value: Any) -> bool:
    """Whether pickle finds it in its module: what cloudpickle finds too, for most, in less time."""
    module = getattr(value, "__module__", None)
    if module == "__main__" or type(module) is not str or _is_by_value(module):
        return False
    found, name = sys.modules.get(module), getattr(value, "__qualname__", "")
    return type(found) is ModuleType and vars(found).get(name) is value


def _is_by_value(module: str) -> bool:
    """Whether what a module has travels by value, since that or its package is registered so.

    What a program's child by `multiprocessing` takes for its main module no other process has.
    """
    if module == _MAIN_OF_CHILD and module in sys.modules:
        _modules_by_value.add(module)
    while module and _modules_by_value:
        if module in _modules_by_value:
            return True
        module = module.rpartition(".")[0]
    return False


def _weak_keys(items: list[tuple[Any, Any]]) -> weakref.WeakKeyDictionary[Any, Any]:
    return weakref.WeakKeyDictionary(items)


def _weak_values(items: list[tuple[Any, Any]]) -> weakref.WeakValueDictionary[Any, Any]:
    return weakref.WeakValueDictionary(items)


def _cached_property(
    function: Callable[..., Any], name: str | None, doc: str | None
) -> functools.cached_property[Any]:
    made = functools.cached_property(function)
    made.attrname, made.__doc__ = name, doc
    return made


def _cached(function: Callable[..., Any], size: int | None, typed: bool) -> Callable[..., Any]:
    return functools.lru_cache(size, typed)(function)


def _reduce_cached(cached: Any) -> str | tuple[Any, ...]:
    """A function with a cache: by name as pickle does it, or anew, with an empty cache."""
    function = cached.__wrapped__
    if getattr(function, "__module__", None) != "__main__" and "<locals>" not in (
        function.__qualname__
    ):
        return str(cached.__reduce__())
    parameters = cached.cache_parameters()
    return _cached, (function, parameters["maxsize"], parameters["typed"])


class Pickler(_library.Pickler):  # type: ignore[misc]
    """Pickles what cloudpickle pickles, and what `functools` makes of functions.

    Examples:
        >>> import io
        >>> from nbray.cloudpickle import Pickler, loads
        >>> file = io.BytesIO()
        >>> Pickler(file).dump(lambda x: x + 1)
        >>> loads(file.getvalue())(1)
        2
    """

    dispatch_table: ClassVar[dict[type, Any]] = _Reducers(
        {
            CodeType: _reduce_code,
            ContextVar: reduce_context_var,
            functools._lru_cache_wrapper: _reduce_cached,
            # It has a lock until Python 3.12.
            functools.cached_property: lambda made: (
                _cached_property,
                (made.func, made.attrname, made.__doc__),
            ),
            weakref.WeakKeyDictionary: lambda weak: (_weak_keys, (list(weak.items()),)),
            weakref.WeakValueDictionary: lambda weak: (_weak_values, (list(weak.items()),)),
        }
    )

    def reducer_override(self, value: Any) -> Any:
        """How a class or function is pickled; see `pickle.Pickler`.

        Args:
            value: what is pickled.

        Returns:
            What `pickle` takes for it.
        """
        if not issubclass(type(value), BY_VALUE) or _is_found_by_name(value):
            return NotImplemented
        reduced = super().reducer_override(value)
        if type(reduced) is tuple and reduced[-1] is _set_class:
            _whole.add(value)
            if vars(value).get("__slots__"):
                _keep_slots(value, *reduced[1:3])
            return (*reduced[:-1], _complete_class)
        return reduced


def dump(
    obj: Any,
    file: IO[bytes],
    protocol: int | None = None,
    buffer_callback: Callable[[Any], Any] | None = None,
) -> None:
    """Pickle ``obj`` into ``file``, as `pickle.dump` does.

    Args:
        obj: what to pickle.
        file: where the pickle is written.
        protocol: as for `pickle.dump`.
        buffer_callback: as for `pickle.dump`.

    Raises:
        Exception: it cannot be pickled; a value's own code may raise anything.

    Examples:
        >>> import io
        >>> from nbray import cloudpickle
        >>> file = io.BytesIO()
        >>> cloudpickle.dump({"a": 1}, file)
        >>> cloudpickle.loads(file.getvalue())
        {'a': 1}
    """
    Pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(obj)


def dumps(
    obj: Any,
    protocol: int | None = None,
    buffer_callback: Callable[[Any], Any] | None = None,
) -> bytes:
    """The pickle of ``obj``, as `pickle.dumps` makes it; raises as `dump` does.

    Args:
        obj: what to pickle.
        protocol: as for `pickle.dumps`.
        buffer_callback: as for `pickle.dumps`.

    Returns:
        The pickle.

    Examples:
        >>> from nbray import cloudpickle
        >>> cloudpickle.loads(cloudpickle.dumps(lambda: 7))()
        7
    """
    file = io.BytesIO()
    dump(obj, file, protocol, buffer_callback)
    return file.getvalue()


CloudPickler = Pickler
