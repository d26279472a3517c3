"""One option, and what it is as a word of a command line or a magic."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from enum import Flag, auto
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr


class Scope(Flag):
    """Who takes an option."""

    TASK = auto()
    """A remote function: ``@nbray.remote``, and its ``.options``."""
    ACTOR = auto()
    """An actor class, the same way."""
    METHOD = auto()
    """A method of an actor class: ``@nbray.method``."""
    CALL = auto()
    """One call of a method: ``handle.method.options``."""
    INIT = auto()
    """`nbray.init`."""
    START = auto()
    """The command ``nbray start``."""
    SLURM = auto()
    """Clusters whose nodes are jobs of Slurm: ``%nbray start --slurm``, ``nbray slurm script``."""


class Word(Struct, frozen=True):
    """How a value is written in one word of a line.

    Attributes:
        metavar: what stands for it in a help text.
        parse: makes the value of the text; raises ValueError, with what is wrong.
    """

    metavar: str
    parse: Callable[[str], Any]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not value >= 0:
        raise ValueError(f"{text!r} is not a number of 0 or more")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word not in (*_YES, *_NO):
        raise ValueError(f"{text!r} is neither true nor false")
    return word in _YES


_YES, _NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


def size(text: str) -> int:
    """Bytes: ``1000000``, ``100MB``, ``2GiB``.

    Raises:
        ValueError: it is no such size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is not a size like 500000, 100MB or 2GiB")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " KMGT".index(found[2].upper() or " "))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not JSON, as '{{\"name\": 1}}' ({error})") from None


def _json_object(text: str) -> dict[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is not a JSON object, as '{{\"name\": 1}}'")
    return value


def _amounts(text: str) -> dict[str, float]:
    value = _json_object(text)
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in value.values()):
        raise ValueError(f"{text!r} is not a JSON object of numbers, as '{{\"name\": 1}}'")
    reserved = {"CPU", "GPU", "memory", "object_store_memory"} & value.keys()
    if reserved:
        raise ValueError(
            f"{', '.join(sorted(reserved))}: there are options of their own for CPU, GPU, memory "
            "and the object store"
        )
    return value


def _span(text: str) -> tuple[int, int]:
    low, dots, high = text.partition("..")
    try:
        found = (int(low), int(high if dots else low))
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor two, as 2..8") from None
    if not 0 <= found[0] <= found[1]:
        raise ValueError(f"{text!r} is no range: the fewest come first, as 2..8")
    return found


def _words(text: str) -> list[str]:
    return shlex.split(text)


def _folder(text: str) -> str:
    if Path(text).exists() and not Path(text).is_dir():
        raise ValueError(f"{text!r} is a file")
    return text


def _found_folder(text: str) -> Path:
    path = Path(text).expanduser()  # no shell does behind a `=`
    if not path.is_dir():
        raise ValueError(f"there is no folder {text!r}")
    return path


def _found_file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {text!r}")
    return path


NUMBER = Word("N", _number)
WHOLE = Word("N", _whole)
TRUTH = Word("BOOL", _truth)
SIZE = Word("SIZE", size)
JSON = Word("JSON", _json_object)
ANY_JSON = Word("JSON", _json)
AMOUNTS = Word("JSON", _amounts)
TEXT = Word("TEXT", str)
LINE = Word("LINE", lambda text: [text])
WORDS = Word("WORDS", _words)
SPAN = Word("N|N..M", _span)
ADDRESS = Word("HOST:PORT", str)
FOLDER = Word("FOLDER", _folder)
FOUND_FOLDER = Word("FOLDER", _found_folder)
FOUND_FILE = Word("FILE", _found_file)

_WORDS: tuple[tuple[type, Word], ...] = (
    (bool, TRUTH), (float, NUMBER), (int, WHOLE), (dict, JSON), (str, TEXT),
)  # fmt: skip


def _word_of(types: tuple[type, ...]) -> Word | None:
    return next((word for kind, word in _WORDS if kind in types), None)


class Option(Struct, frozen=True):
    """One option.

    Attributes:
        name: as a keyword; a line has ``--name-with-dashes``.
        types: what a value is; None is always allowed, and means the default.
        default: the value without it; None is what ``help`` says, or what the parts decide.
        scope: who takes it.
        help: one line, beginning with a noun.
        least: the smallest number: 0, or -1 which then means "any number".
        most: the largest.
        has_effect: False for what Ray has and nbray takes without an effect, or refuses.
        refusal: why it is refused; empty if it is taken.
        variable: the environment variable that says the same.
        word: how a line has it; None where only Python can.
    """

    name: str
    types: tuple[type, ...]
    default: Any
    scope: Scope
    help: str
    least: int | None = None
    most: int | None = None
    has_effect: bool = True
    refusal: str = ""
    variable: str = ""
    word: Word | None = None

    def __post_init__(self) -> None:
        if self.word is None:
            force_setattr(self, "word", _word_of(self.types))

    @property
    def flag(self) -> str:
        """As a line has it: ``--num-cpus``."""
        return "--" + self.name.strip("_").replace("_", "-")

    @property
    def metavar(self) -> str:
        """What stands for its value in a help text."""
        return self.name.upper() if self.word is None else self.word.metavar

    @property
    def is_switch(self) -> bool:
        """Whether a line has it without a value."""
        return self.types == (bool,) and self.default is False

    def check_refusal(self, value: Any, name: str) -> None:
        """Raises ValueError if the option is refused, and was given as something that counts."""
        nothing = (None, self.default) if self.default is not None else (None, 0, "")
        if self.refusal and value not in nothing:
            raise ValueError(f"{name} is an option of Ray's that nbray refuses: {self.refusal}.")

    def as_word(self, value: Any) -> str:
        """The word of a line that says ``value``: ``--num-cpus=2``."""
        return f"{self.flag}={json.dumps(value) if isinstance(value, dict) else value}"

    def from_text(self, text: str) -> Any:
        """The value that a line, or a variable of the environment, says.

        Raises:
            ValueError: it is none, with the reason.
        """
        if self.word is None:
            raise ValueError(f"{self.name} cannot be written in a line")
        value = self.word.parse(text)
        low, high = self.least, self.most
        if (low is not None and value < low) or (high is not None and value > high):
            upper = "" if high is None else f" to {high}"
            raise ValueError(f"{value} is not in the range from {low}{upper}")
        return value
