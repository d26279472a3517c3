"""What a stopped task and its notebook say to each other."""

from __future__ import annotations

from typing import Literal

import msgspec

FAILED = "failed"
"""The kind of a `Failed`."""
STOPPED = "stopped"
"""The kind of a `Stopped`."""
NOBODY = b""
"""The answer of a driver with nobody to ask."""
PROFILED = "profiled"
"""The kind of a `sampling.Seen`."""


class Failed(msgspec.Struct, array_like=True):
    """A task failed: its encoded `pictures.Picture`, and itself if it is not large."""

    picture: bytes
    task: bytes = b""


class Stopped(msgspec.Struct, array_like=True):
    """A task stands in its debugger, or has left it.

    ``stop`` is the number of this stop in its worker, ``question`` that under which it waits for
    the next command. ``text`` is what the debugger printed since the last one. ``ended`` says why
    when it is over: no answer is awaited then.
    """

    stop: int
    question: int
    why: Literal["breakpoint", "failure"]
    title: str
    text: str
    prompt: str = ""
    ended: str = ""


class Command(msgspec.Struct, array_like=True):
    """What a person typed; None: leave the debugger and go on."""

    line: str | None


def encode(message: msgspec.Struct) -> bytes:
    """A message as it travels."""
    return msgspec.msgpack.encode(message)


def read_failed(data: bytes) -> Failed:
    """A `Failed` that came.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.msgpack.decode(data, type=Failed)


def read_stopped(data: bytes) -> Stopped:
    """A `Stopped` that came.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.msgpack.decode(data, type=Stopped)


def read_command(data: bytes) -> Command:
    """A `Command` that came.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.msgpack.decode(data, type=Command)
