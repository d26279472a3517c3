"""The lines behind the magics: argparse whose answers are for a cell.

A wrong line is answered by one line that suggests the nearest right word; help is text that is
printed; nothing ever leaves the kernel by SystemExit.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from IPython.core.error import UsageError

from nbray.options.option import Option, Scope
from nbray.options.table import options_of

from ..words import did_you_mean, split

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
        self.color = False  # from Python 3.14 on: a saved notebook would have its codes

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
            if given and given[-1] in action.option_strings and action.nargs not in (0, "?"):
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


def add_declared(
    parser: argparse._ActionsContainer, scope: Scope, names: Iterable[str], flag: str | None = None
) -> None:
    """Options of `nbray.options`, as their declarations have them.

    Args:
        scope: whose options they are.
        names: theirs.
        flag: how the line has the one that is named, if not by its name.
    """
    for name in names:
        option = options_of(scope)[name]
        parser.add_argument(
            flag or option.flag, type=_reader(option), dest=name,
            metavar=option.metavar,
            help=option.help.replace("%", "%%"),
        )  # fmt: skip


def _reader(option: Option) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return option.from_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named options that the line has."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
