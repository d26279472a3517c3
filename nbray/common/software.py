"""What this process runs: the version of nbray, what its messages look like, and the Python.

All processes of a cluster run the same. Messages have no version each, and functions travel as
bytecode, which another minor version of Python misreads.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.1.0"
PYTHON = sys.version_info[:2]

_WIRE = Path(__file__).parent.parent / "wire"
ADVICE = (
    "A cluster needs the same version of nbray and the same minor version of Python everywhere: "
    "install them on one side as on the other."
)


@dataclass(frozen=True)
class Software:
    """What one process runs; ``messages`` is the hash of the messages that it knows."""

    version: str
    messages: bytes
    python: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.version} {self.messages.hex()} {'.'.join(map(str, self.python))}"

    @classmethod
    def parse(cls, text: str) -> Software:
        """The software of which `str` gave ``text``; an unknown one for other text."""
        try:
            version, messages, python = text.split(" ")
            major, minor = map(int, python.split("."))
            return cls(version, bytes.fromhex(messages), (major, minor))
        except ValueError:
            return cls(f"of another protocol ({text!r})", b"", PYTHON)

    def difference(self, other: Software, who: str, this: str = "this process") -> str:
        """What ``who`` runs other than ``this``, and what to do."""
        if other.version == self.version and other.python == self.python:
            return f"{who} runs another build of nbray {self.version} than {this}. {ADVICE}"
        their, our = other.version, self.version
        if other.python != self.python:
            their, our = (
                f"{known.version} on Python {'.'.join(map(str, known.python))}"
                for known in (other, self)
            )
        return f"{who} runs nbray {their}, {this} nbray {our}. {ADVICE}"


@functools.cache
def own_software() -> Software:
    """What this process runs."""
    known = hashlib.sha256()
    for path in sorted(
        [*_WIRE.glob("*messages.py"), _WIRE / "records.py", _WIRE / "strategies.py"]
    ):
        known.update(path.read_bytes() if path.exists() else b"")
    return Software(VERSION, known.digest()[:4], PYTHON)
