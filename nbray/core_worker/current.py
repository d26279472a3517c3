"""The one place that knows this process's runtime.

A fork of a process that has joined a cluster is no part of that cluster: it has the memory of its
parent, with the arrays in it, but none of its sockets. If it kept them, nobody would see the
parent end; if it used them, the parent's messages would be torn.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nbray.common.interrupts import guard_finalizers
from nbray.core_worker.values.serialization import set_home
from nbray.exceptions import NbraySystemError

if TYPE_CHECKING:
    from nbray.core_worker.core import CoreWorker

NO_MEMBER = (
    "System error: this process is a fork of one that uses nbray, and no part of its cluster. "
    "Call nbray.init(address=...) in it, or make it a task or an actor."
)
_current: CoreWorker | None = None
_forked = False


def find_core() -> CoreWorker | None:
    """The runtime, or None before `init` and after `shutdown`."""
    return _current


def joined_core() -> CoreWorker:
    """The runtime.

    Raises:
        NbraySystemError: this program has not joined a cluster, or is a fork of one that has.
    """
    core = find_core()
    if core is None:
        if _forked:
            raise NbraySystemError(NO_MEMBER)
        raise NbraySystemError(
            "System error: nbray has not been started yet. You can start it with 'nbray.init()'."
        )
    return core


def set_core(core: CoreWorker | None) -> None:
    """Make ``core`` this process's runtime."""
    global _current, _forked
    _current, _forked = core, False
    set_home(core)
    guard_finalizers()


def was_forked() -> bool:
    """Whether this process is a fork of one that had a runtime, and has none of its own."""
    return _forked


def _forget() -> None:
    global _forked
    core = _current
    if core is not None:
        set_core(None)
        _forked = True
        core.forget_in_fork()


os.register_at_fork(after_in_child=_forget)
