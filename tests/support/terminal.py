"""What this process and its children print, read while they go on printing.

`capfd` empties its file as it reads it: what somebody writes in between is lost, and what was
written in parts is read in parts. Whoever waits for output of a cluster reads it here instead.
"""

from __future__ import annotations

import os

import pytest


class Terminal:
    """All that came since the test began."""

    @property
    def out(self) -> str:
        """Of standard output."""
        return _whole(1)

    @property
    def err(self) -> str:
        """Of standard error."""
        return _whole(2)


def _whole(descriptor: int) -> str:
    # It is `capfd`'s file. Those who write share the place in it, which this does not move.
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


@pytest.fixture
def terminal(capfd: pytest.CaptureFixture[str]) -> Terminal:
    """Both streams, in Python and below it."""
    return Terminal()
