"""Text that users give: what may be a name, and how any text is shown.

Names and messages may hold anything that Python can: escape sequences, line breaks, half of a
surrogate pair. What is shown to people in a terminal or as plain text passes `printable` or
`one_line` first, so that it can neither steer the terminal nor look like another line.
"""

from __future__ import annotations

import re

LONGEST_NAME = 1000
"""Characters of a name: of an actor, a namespace, a resource, a label, a tag."""

# Controls, halves of surrogate pairs, and what turns the direction of writing or breaks lines.
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_HIDDEN = rf"\x00-\x1f\x7f-\x9f\u2028\u2029{_BIDI}\ud800-\udfff"
_IN_LINE = re.compile(f"[{_HIDDEN}]")
_IN_TEXT = re.compile(rf"(?![\n\t])[{_HIDDEN}]")
_COLOUR_OR_HIDDEN = re.compile(rf"(\x1b\[[0-9;]*m)|(?![\n\t\r])[{_HIDDEN}]")


def one_line(text: str) -> str:
    """Text as a single line of what can be seen; the rest is escaped as Python would."""
    return _IN_LINE.sub(lambda found: _escaped(found[0]), text)


def printable(text: str) -> str:
    """The same for text of several lines: line breaks and tabs stay."""
    return _IN_TEXT.sub(lambda found: _escaped(found[0]), text)


def coloured(text: str) -> str:
    """The same for a log's text: colours and carriage returns stay, too."""
    return _COLOUR_OR_HIDDEN.sub(lambda found: found[1] or _escaped(found[0]), text)


def encodable(text: str) -> str:
    """The text with escapes for halves of surrogate pairs, which no message can have."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


LEFT_OUT = re.compile(r" \.\.\. ([\d,]+) more characters$")
"""How `left_out` ends a text, with the number."""


def left_out(characters: int) -> str:
    """The end of a text of which so many characters are not shown."""
    return f" ... {characters:,} more characters"


def without_middle(text: str, most: int = 1 << 16) -> str:
    """``text`` as any message takes it, without its middle if it is longer than anybody reads."""
    if len(text) <= most:
        return encodable(text)
    half = most // 2
    middle = f"\n... {len(text) - most:,} characters ...\n"
    return encodable(text[:half] + middle + text[-half:])


def _escaped(character: str) -> str:
    code = ord(character)
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return known.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def plain(text: str) -> str:
    """The text as an exact `str`: messages take no class derived from it, as NumPy's."""
    return text if type(text) is str else str.__str__(text)


def check_text(what: str, text: object, most: int = LONGEST_NAME) -> str:
    """A name, `plain`, if it can be one.

    Args:
        what: begins the message of the error, as "The name of a resource".
        text: the name.
        most: the greatest number of characters.

    Raises:
        TypeError: it is no text. ValueError: it is empty, too long, or no Unicode.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} is a str, not {type(text)}.")
    if not text:
        raise ValueError(f"{what} must not be empty.")
    if len(text) > most:
        raise ValueError(f"{what} has {len(text):,} characters; at most {most:,} can be used.")
    try:
        str.encode(text)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} is no Unicode text: {one_line(text[:100])!r} has half of a surrogate pair "
            f"({text[error.start]!r}) at place {error.start}."
        ) from None
    return plain(text)


def check_namespace(namespace: object) -> str | None:
    """A namespace, checked; None is none.

    Raises:
        TypeError: it is no text. ValueError: it is empty, too long, or no Unicode.
    """
    if namespace is None:
        return None
    if not isinstance(namespace, str):
        raise TypeError("namespace must be None or a string.")
    if namespace == "":
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')
    return check_text("The namespace", namespace)


def as_name(text: str, most: int = LONGEST_NAME) -> str:
    """A name that the user did not choose for this, as a function's, made fit to be one."""
    if len(text) <= most and text.isascii():
        return text
    return encodable(text[:most])
