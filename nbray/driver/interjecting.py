"""Calls in the main thread, in the middle of whatever it does there, also while it waits.

A cell that waits in `get` holds the only thread in which a notebook can ask a person something. A
signal that is otherwise unused comes between two of its instructions, or out of a wait of Python
or of the reactor; where nbray's own code would be torn, it is tried again a moment later.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from nbray.wire.reactor import Reactor

_SIGNAL = signal.SIGURG
_AGAIN_S = 0.005
_WAITS = {Reactor.wait.__code__, Reactor.try_turn.__code__}
_FACE = "nbray.jupyter_ext"
_calls: deque[Callable[[], None]] = deque()
_before: Any = None
_ready = False  # while the reactor waits, the signal's handler is another one


def prepare() -> None:
    """Have the signal's handler stand ready; only in the main thread."""
    global _before, _ready
    if not _ready:
        _before, _ready = signal.signal(_SIGNAL, _on_signal), True


def end() -> None:
    """Give the signal back; only in the main thread."""
    global _ready
    if _ready:
        _ready = False
        signal.signal(_SIGNAL, _before if _before is not None else signal.SIG_DFL)


def interject(call: Callable[[], None]) -> None:
    """Have ``call`` called in the main thread, from any thread."""
    _calls.append(call)
    _raise()


def _raise() -> None:
    main = threading.main_thread().ident
    if main is not None and _ready:
        signal.pthread_kill(main, _SIGNAL)


def _on_signal(_signal: int, frame: FrameType | None) -> None:
    if _is_torn(frame):
        again = threading.Timer(_AGAIN_S, _raise)
        again.daemon = True
        again.start()
        return
    while _calls:
        _calls.popleft()()


def _is_torn(frame: FrameType | None) -> bool:
    """Whether nbray's own code stands there, other than a wait."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("nbray.") and not module.startswith(_FACE):
            return frame.f_code not in _WAITS
        frame = frame.f_back
    return False
