"""A picture of a failure: its frames, and copies of what their names stood for."""

from __future__ import annotations

from typing import Literal

import msgspec


class Kept(msgspec.Struct, array_like=True):
    """A value: its pickle if it has a small one, else how it was shown.

    ``how``: ``pickle``, ``module`` and ``main`` (a name in ``__main__``) with ``shown`` the name,
    or ``text``. ``kind`` is the name of its class.
    """

    how: Literal["pickle", "module", "main", "text"]
    kind: str
    shown: str = ""
    pickle: bytes = b""


class Frame(msgspec.Struct, array_like=True):
    """One frame; ``names`` and ``globals`` lead to numbers of values.

    ``arguments``: how many names of ``parameters`` are positional and how many keyword-only; then
    those of ``*args`` and ``**kwargs`` follow, as far as ``flags`` say. ``names`` None: those of
    a module's own frame, which are its globals.
    """

    file: str
    function: str
    first_line: int
    line: int
    module: str
    parameters: list[str] = []
    positional: int = 0
    keyword_only: int = 0
    has_args: bool = False
    has_kwargs: bool = False
    is_module: bool = False
    names: dict[str, int] = {}
    globals: dict[str, int] = {}


class Source(msgspec.Struct, array_like=True):
    """Lines of a file, from ``first`` on."""

    first: int
    text: str


class Raised(msgspec.Struct, array_like=True):
    """One exception of a chain, the frames outermost first; ``shown`` is its last line."""

    shown: str
    frames: list[Frame]
    skipped: int = 0


class Picture(msgspec.Struct, array_like=True):
    """What was seen where a task failed.

    ``chain``: the exception, then what led to it. ``notes`` say what is left out.
    """

    chain: list[Raised] = []
    values: list[Kept] = []
    sources: dict[str, Source] = {}
    notes: list[str] = []


def encode(picture: Picture) -> bytes:
    """A picture as it travels."""
    return msgspec.msgpack.encode(picture)


def decode(data: bytes) -> Picture:
    """A picture that came.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.msgpack.decode(data, type=Picture)
