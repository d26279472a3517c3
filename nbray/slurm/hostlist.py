"""Slurm's short way to write many hosts: ``cn[001-004,9],login1`` is six names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

MOST_HOSTS = 100_000
"""More than any cluster has; a list that names more is refused before it fills the memory."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def expand(text: str) -> list[str]:
    """The hosts of a list, in its order.

    Args:
        text: as in ``SLURM_JOB_NODELIST``.

    Raises:
        ValueError: it is no such list, or too long a one.
    """
    hosts: list[str] = []
    for word in _words(text):
        for host in _hosts(word, text):
            hosts.append(host)
            if len(hosts) > MOST_HOSTS:
                raise ValueError(f"The list of hosts {text[:80]!r} names more than {MOST_HOSTS}.")
    return hosts


def _words(text: str) -> Iterator[str]:
    """The parts between commas that stand in no brackets."""
    word, depth = "", 0
    for letter in text.strip():
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise ValueError(f"The brackets of the list of hosts {text[:80]!r} do not match.")
        if letter == "," and not depth:
            yield from filter(None, [word.strip()])
            word = ""
        else:
            word += letter
    if depth:
        raise ValueError(f"The brackets of the list of hosts {text[:80]!r} do not match.")
    yield from filter(None, [word.strip()])


def _hosts(word: str, text: str) -> Iterator[str]:
    """The names of ``rack[1-2]n[1-3]``: the last brackets change fastest."""
    parts = re.split(r"\[([^\]]*)\]", word)
    choices: list[Iterator[str] | list[str]] = [
        [part] if number % 2 == 0 else _numbers(part, text) for number, part in enumerate(parts)
    ]
    # `product` would make lists of all; the first brackets may be long only once.
    yield from map("".join, itertools.product(*choices))


def _numbers(inside: str, text: str) -> Iterator[str]:
    for part in inside.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"[{inside[:40]}] in the list of hosts {text[:80]!r} has no numbers.")
        first, last = found[1], found[2] or found[1]
        count = int(last) - int(first) + 1
        if not 0 < count <= MOST_HOSTS:
            raise ValueError(f"[{inside[:40]}] in the list of hosts {text[:80]!r} has no numbers.")
        for number in range(int(first), int(last) + 1):
            yield str(number).zfill(len(first))
