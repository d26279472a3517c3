"""The words of a line, and what they stand for: numbers, sizes, resources."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import Any

from IPython.core.error import UsageError

from nbray.common.text import encodable

_MOST = 100


def split(line: str, prog: str) -> list[str]:
    """The words of a line.

    Spaces inside quotes and brackets do not part words, so that expressions and JSON may be written
    as they are; quotes around a whole word are dropped; a word that begins with # ends the line.

    Raises:
        UsageError: a quote is left open.
    """
    words: list[str] = []
    word, quote, depth = "", "", 0
    for character in line:
        if not quote and not depth and character.isspace():
            words += [word] if word else []
            word = ""
            continue
        if not word and character == "#" and not quote:
            break
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        word += character
    if quote:
        raise UsageError(f"{prog}: no closing {quote} in {line.strip()!r}.")
    words += [word] if word else []
    return [unquoted(word) for word in words]


def unquoted(word: str) -> str:
    """``word`` without quotes around the whole of it."""
    whole = len(word) > 1 and word[0] == word[-1] and word[0] in "\"'"
    return word[1:-1] if whole and word[0] not in word[1:-1] else word


def shortened(name: str) -> str:
    """A name as tables show it: quoted, and the beginning alone, if it is a long one."""
    return name if len(name) <= _MOST else quoted(name)


def quoted(name: str) -> str:
    """A name as messages show it: of a long one the beginning, and how long it is."""
    return repr(name) if len(name) <= _MOST else f"{name[:40]!r}... ({len(name):,} characters)"


def sendable(content: Any) -> Any:
    """A message's content with escapes for what is no character, which Jupyter cannot send."""
    if isinstance(content, str):
        return encodable(content)
    if isinstance(content, dict):
        return {sendable(key): sendable(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [sendable(value) for value in content]
    return content


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean X?``, or nothing when no known word is near."""
    names = list(known)
    near = difflib.get_close_matches(word, names, 1, 0.5) or [
        name for name in names if word and word.strip("-") in name
    ]
    return f" Did you mean {near[0]}?" if near else ""


def positive(text: str) -> float:
    """A number of seconds, or of anything, above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
