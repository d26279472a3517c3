"""What has ended is told before user code ends its process.

Replies of a burst of short calls leave together, so that a call that ends the process would take
those of the calls before it along: a task would run again, and a call of an actor be lost.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NoReturn

from nbray.exceptions import NbraySystemError
from nbray.wire.reactor import Reactor
from nbray.wire.waiting import Waiter

_LONGEST_S = 1.0


def send_what_is_left(reactor: Reactor) -> None:
    """Have the replies that were left sent, if they can be within a second."""
    sent = Waiter()
    reactor.post(lambda: reactor.call_later(0.0, sent.complete_one))  # behind the turn's writes
    with suppress(NbraySystemError):  # it was stopped, or this is its own thread: all was sent
        reactor.wait(sent, _LONGEST_S)


def before_exit(reactor: Reactor) -> None:
    """Do so also when user code calls `os._exit`; not in a fork of this process.

    That is how programs simulate a crash, and how libraries leave without clean-up.
    """
    end, own = os._exit, os.getpid()

    def _exit(status: int) -> NoReturn:
        if os.getpid() == own:
            send_what_is_left(reactor)
        end(status)

    os._exit = _exit
