"""The lines behind the magics: argparse whose answers are for a cell.

A wrong line is answered by one line that suggests the nearest right word; help is text that is
printed; nothing ever leaves the kernel by SystemExit.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from IPython.core.error import UsageError

_UNKNOWN = re.compile(r"unrecognized arguments: (.*)", re.DOTALL)
_CHOICE = re.compile(r"argument (\S+): invalid choice: '([^']*)' \(choose from (.*)\)", re.DOTALL)


class HelpShown(Exception):
    """The line asked for help, which has been printed."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser for one magic or subcommand."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog, description=description, epilog=epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    def option_names(self) -> list[str]:
        """The options, as they are written."""
        return [name for action in self._actions for name in action.option_strings]

    def options_left(self, given: Sequence[str]) -> list[str]:
        """The options that may still follow the words ``given``, as they are written."""
        return [
            name
            for action in self._actions
            for name in action.option_strings
            if action.const is None or not set(action.option_strings) & set(given)
        ]

    def option_behind(self, given: Sequence[str]) -> argparse.Action | None:
        """The option that the last word ``given`` is, if its value comes next."""
        for action in self._actions:
            if given and given[-1] in action.option_strings and action.nargs != 0:
                return action
        return None

    def place_behind(self, given: Sequence[str]) -> argparse.Action | None:
        """The positional argument that comes behind the words ``given``; None behind the last."""
        places = [action for action in self._actions if not action.option_strings]
        words = iter(given)
        number = 0
        for word in words:
            if not word.startswith("-"):
                number += 1
            elif self.option_behind([word]) is not None:
                next(words, None)
        return places[number] if number < len(places) else None

    def error(self, message: str) -> NoReturn:
        """Raise one line that says what is wrong and what was perhaps meant."""
        hint = ""
        if unknown := _UNKNOWN.fullmatch(message):
            word = unknown[1].split()[0]
            if word.startswith("-"):
                hint = did_you_mean(word.partition("=")[0], self.option_names())
                message = f"there is no option {word}"
            else:
                message = f"{word!r} is one word too many"
        elif choice := _CHOICE.fullmatch(message):
            known = re.findall(r"'?([\w-]+)'?", choice[3])
            hint = did_you_mean(choice[2], known)
            message = f"{choice[1]} cannot be {choice[2]!r}, only {', '.join(known)}"
        raise UsageError(f"{self.prog}: {message}.{hint} See {self.prog} --help.")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """What argparse calls after ``--help``."""
        raise HelpShown

    def parse_line(self, line: str) -> argparse.Namespace:
        """Parse what stands behind the magic.

        Raises:
            UsageError: it is wrong. HelpShown: it asked for help.
        """
        return self.parse_words(split(line, self.prog))

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words of a line."""
        return self.parse_args(list(words))


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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean X?``, or nothing when no known word is near."""
    names = list(known)
    near = difflib.get_close_matches(word, names, 1, 0.5) or [
        name for name in names if word and word.strip("-") in name
    ]
    return f" Did you mean {near[0]}?" if near else ""


def resources(text: str) -> dict[str, float]:
    """An argument like ``{"name": 1}``."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(value, dict) or not all(
        isinstance(amount, int | float) for amount in value.values()
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is not like '{{\"name\": 1}}'")
    return value


def positive(text: str) -> float:
    """A number of seconds, or of anything, above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def size(text: str) -> int:
    """Bytes: ``1000000``, ``100MB``, ``2GiB``."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 500000, 100MB or 2GiB")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " KMGT".index(found[2].upper() or " "))


def add_resources(parser: argparse.ArgumentParser) -> None:
    """The options that say what a node has or a cell needs."""
    parser.add_argument("--num-cpus", type=float, metavar="N", help="CPUs")
    parser.add_argument("--num-gpus", type=float, metavar="N", help="GPUs")
    parser.add_argument(
        "--resources", type=resources, metavar="JSON", help="""others, as '{"name": 1}'"""
    )


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named options that the line has."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
