"""Interrupts that come where Python would drop them.

What is raised while an object is deleted is printed and forgotten, an interrupt as well: a loop
that drops refs would go on as if nobody had asked it to stop. A finalizer catches what comes in
its middle; what comes at its first step, before it has done anything, it cannot. Then Python asks
`sys.unraisablehook`, which has it done, and the interrupt come again.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

_LATER_S = 0.001

_Finalizer = TypeVar("_Finalizer", bound=Callable[..., object])
_finalizers: dict[CodeType, Callable[..., object]] = {}
_asked_before: Callable[[sys.UnraisableHookArgs], object] | None = None


def interrupt_again() -> None:
    """Have the main thread interrupted once more in a moment, when it is elsewhere."""
    # No lock of the module threading is taken: it may be what the object was deleted in.
    _thread.start_new_thread(_interrupt, ())


def _interrupt() -> None:
    time.sleep(_LATER_S)
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)


def finalizer(function: _Finalizer) -> _Finalizer:
    """A function that Python calls when an object is deleted, with positional arguments only.

    Whatever comes at its first step, it is done, once `guard_finalizers` was called.
    """
    _finalizers[function.__code__] = function
    return function


def guard_finalizers() -> None:
    """From now on an interrupt at the first step of a `finalizer` is not lost, nor is its work."""
    global _asked_before
    if _asked_before is None:
        finalizer(weakref.finalize.__call__)
        _asked_before = sys.unraisablehook
        sys.unraisablehook = _on_unraisable


def _on_unraisable(args: sys.UnraisableHookArgs) -> None:
    if not (issubclass(args.exc_type, KeyboardInterrupt) and _was_met(args)):
        assert _asked_before is not None
        _asked_before(args)


def _was_met(args: sys.UnraisableHookArgs) -> bool:
    """Whether a finalizer was; its work is done then, and the interrupt comes again."""
    place = args.exc_traceback
    if place is None:
        return False
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    if code not in _finalizers:
        return False
    if place.tb_lineno == code.co_firstlineno:  # no line of it was begun
        given: dict[str, Any] = place.tb_frame.f_locals
        _finalizers[code](*[given[name] for name in code.co_varnames[: code.co_argcount]])
    interrupt_again()
    return True
