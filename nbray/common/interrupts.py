"""Interrupts that come where Python would drop them.

What is raised while an object is deleted is printed and forgotten, an interrupt as well: a loop
that drops refs would go on as if nobody had asked it to stop.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time

_LATER_S = 0.001


def interrupt_again() -> None:
    """Have the main thread interrupted once more in a moment, when it is elsewhere."""
    # No lock of the module threading is taken: it may be what the object was deleted in.
    _thread.start_new_thread(_interrupt, ())


def _interrupt() -> None:
    time.sleep(_LATER_S)
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)
