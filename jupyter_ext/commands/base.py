"""What a subcommand of ``%nbray`` is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from nbray.notebook import engine

from ..engines import refuse
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

Complete = Callable[["Workspace", Sequence[str]], list[str]]


def _nothing(_parser: Parser) -> None:
    """A command without arguments."""


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: its word.
        help: one line.
        run: does it; what it returns is displayed.
        arguments: adds its arguments to its parser.
        values: for tab completion, what its arguments may be, by their destinations,
            behind the words that are given.
        needs_cluster: refuse when there is none.
    """

    name: str
    help: str
    run: Callable[[Workspace, argparse.Namespace], object]
    arguments: Callable[[Parser], None] = _nothing
    values: Mapping[str, Complete] = field(default_factory=dict)
    needs_cluster: bool = True

    def parser(self) -> Parser:
        """Its parser, made anew."""
        parser = Parser(prog=f"%nbray {self.name}", description=self.help)
        self.arguments(parser)
        return parser

    def __call__(self, workspace: Workspace, words: list[str]) -> object:
        """Run it with the words of a line; returns what to show.

        Raises:
            UsageError: the words are wrong, or there is no cluster.
        """
        arguments = self.parser().parse_words(words)
        refuse(f"%nbray {self.name}")
        if self.needs_cluster:
            require_cluster(f"%nbray {self.name}")
        return self.run(workspace, arguments)


def require_cluster(magic: str) -> None:
    """Raise one line when this kernel is in no cluster."""
    if not engine().api.is_initialized():
        raise UsageError(f"{magic}: no cluster yet. Start one with %nbray start --head.")
