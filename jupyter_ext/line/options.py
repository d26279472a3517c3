"""The options of ``%%remote`` and ``%remote``: one parser, one typed result."""

from __future__ import annotations

import argparse
import ast
from dataclasses import dataclass
from typing import Any

from IPython.core.error import UsageError

from nbray.debugging.marks import HOLD, PROFILE, PROFILE_MEMORY
from nbray.options.option import Scope

from ..commands.parser import Parser, add_declared, given
from ..words import positive, split, unquoted

_CELL_EPILOG = """\
Names that the cell reads are sent, names that it assigns stay in the cluster until a cell reads
them. Magics and !commands in the cell run in the worker. Nothing runs when a value cannot be
sent. --every makes a set-up cell: every worker runs it once, before its next remote cell.
"""


@dataclass(frozen=True)
class Spread:
    """What ``--map x=xs`` says: the variables, and the expression of their values."""

    variables: tuple[str, ...]
    expression: str


@dataclass(frozen=True)
class RemoteOptions:
    """How a remote cell runs.

    Attributes:
        task: the options of its task, as `nbray.remote` takes them.
        out: the names that come back, None for all that it assigns.
        detach: the name under which it lives in the cluster, whatever becomes of the kernel.
    """

    task: dict[str, Any]
    out: tuple[str, ...] | None
    noblock: bool
    gather: bool
    timeout: float | None
    on_interrupt: str | None
    targets: tuple[str, ...]
    actor: str | None
    every: bool
    spread: Spread | None
    cache: str | None
    detach: str | None = None
    debug: bool = False
    profile: str | None = None

    @property
    def marks(self) -> int:
        """What its tasks are watched for (`nbray.debugging.marks`)."""
        marks = {None: 0, "time": PROFILE, "memory": PROFILE | PROFILE_MEMORY}[self.profile]
        return marks | (HOLD if self.debug else 0)


_OF_THE_TASK = (
    "num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector",
    "runtime_env", "name",
)  # fmt: skip
"""Options of tasks that a line may have."""


def cell_parser() -> Parser:
    """The parser of ``%%remote``."""
    parser = Parser("%%remote", "Run the cell in a worker of the cluster.", _CELL_EPILOG)
    add_declared(parser, Scope.TASK, _OF_THE_TASK)
    parser.add_argument(
        "-o", "--out", metavar="NAME", action="append", type=_names,
        help="only these names come back; several as -o a,b",
    )  # fmt: skip
    parser.add_argument(
        "--gather", action="store_true",
        help="bring the names here when the cell ends; from several targets, as lists",
    )  # fmt: skip
    parser.add_argument(
        "--detach", metavar="NAME",
        help="the cell lives in the cluster, whatever becomes of this kernel: %%nbray attach NAME",
    )  # fmt: skip
    parser.add_argument("--noblock", action="store_true", help="go on at once; returns a handle")
    parser.add_argument(
        "--timeout", type=positive, metavar="SECONDS", help="cancel the cell after so long"
    )
    add_declared(parser, Scope.TASK, ["max_retries"], "--retries")
    parser.add_argument(
        "--cache", nargs="?", const="use", choices=("use", "refresh"),
        help="take the answer that was kept when nothing has changed that the cell depends on, "
        "else run and keep it; --cache=refresh runs in any case",
    )  # fmt: skip
    parser.add_argument(
        "--on-interrupt", choices=("cancel", "detach"),
        help="what an interrupt does to the cell (default: see %%nbray config)",
    )  # fmt: skip
    parser.add_argument(
        "--debug", action="store_true",
        help="a task of the cell that fails waits, and its debugger opens here",
    )  # fmt: skip
    parser.add_argument(
        "--profile", choices=("time", "memory"), nargs="?", const="time",
        help="show where the time and the memory of the cell's tasks went; memory: exactly, by "
        "tracing each allocation, which makes them slower",
    )  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--targets", type=_names, metavar="TARGETS",
        help="'nodes': once on every node; 'workers': once for every CPU, each in a worker of its "
        "own; or names of actors, once in each",
    )  # fmt: skip
    where.add_argument(
        "--actor", metavar="NAME", help="run inside this actor, which keeps the names; made if new"
    )
    where.add_argument("--every", action="store_true", help="a set-up cell for every worker")
    where.add_argument(
        "--map", type=_spread, metavar="X=XS", dest="spread",
        help="one task for each X of XS; the results come back in order as a list",
    )  # fmt: skip
    return parser


def parse_cell(line: str) -> RemoteOptions:
    """The options behind ``%%remote``.

    Raises:
        UsageError: they are wrong. HelpShown: help was asked for.
    """
    arguments = cell_parser().parse_line(line)
    options = _options(arguments)
    if options.detach is not None:
        _refuse_beside_detach(options)
    if options.noblock and options.gather:
        raise UsageError("%%remote: --gather waits for the end, --noblock does not; use one.")
    return options


def parse_line(line: str) -> tuple[RemoteOptions, str]:
    """The options behind ``%remote``, which end with ``--``, and the code."""
    code = line.strip()
    words = ""
    if code.startswith("-") and code.split()[0] in ("-h", "--help"):
        words, code = "--help", ""
    elif code.startswith("-"):
        words, separator, code = code.partition(" -- ")
        if not separator:
            raise UsageError("%remote: options end with --, as in %remote --num-cpus 2 -- f(x).")
    parser = cell_parser()
    parser.prog = "%remote"
    options = _options(parser.parse_words(split(words, "%remote")))
    if not code.strip():
        raise UsageError("%remote: what should run? As in %remote f(x).")
    if options.spread or options.every or options.detach:
        raise UsageError("%remote: --map, --every and --detach need a cell: %%remote.")
    return options, code


_NOT_DETACHED = {
    "cache": "what a detached cell makes is kept under its name",
    "actor": "the actor ends with this kernel",
    "debug": "nobody may be there who looks",
    "every": "set-up cells are this kernel's; a detached cell runs those that there are",
    "gather": "%nbray attach brings its names",
    "noblock": "a detached cell runs in the background anyway",
    "profile": "nobody may be there to whom it is told",
    "timeout": "nobody may be there who waits for it",
}


def _refuse_beside_detach(options: RemoteOptions) -> None:
    for name, why in _NOT_DETACHED.items():
        if getattr(options, name):
            raise UsageError(f"%%remote: --detach and --{name} do not go together: {why}.")


def _options(arguments: argparse.Namespace) -> RemoteOptions:
    _refuse_cache(arguments)
    task = given(arguments, *_OF_THE_TASK, "max_retries")
    out = None
    if arguments.out is not None:
        out = tuple(dict.fromkeys(name for names in arguments.out for name in names))
    return RemoteOptions(
        task=task,
        out=out,
        noblock=arguments.noblock,
        gather=arguments.gather,
        timeout=arguments.timeout,
        on_interrupt=arguments.on_interrupt,
        targets=arguments.targets or (),
        actor=arguments.actor,
        every=arguments.every,
        spread=arguments.spread,
        cache=arguments.cache,
        detach=arguments.detach,
        debug=arguments.debug,
        profile=arguments.profile,
    )


def _refuse_cache(arguments: argparse.Namespace) -> None:
    """Raise UsageError if the answer of such a cell cannot be kept, with the reason."""
    for option, why in (
        ("actor", "an actor keeps what its cells do, so an answer is not all of it"),
        ("targets", "it runs for what it does in each place"),
        ("every", "it runs for what it does in each worker"),
        ("spread", "a cell with --map has many answers. Run it without --cache"),
        ("noblock", "its names are promises. Run it without --noblock"),
        ("detach", "its answer is kept in the cluster already: %nbray results"),
        ("profile", "an answer that is kept does not run. Run it without --cache"),
    ):
        if arguments.cache and getattr(arguments, option):
            flag = "map" if option == "spread" else option
            raise UsageError(f"%%remote: --cache does not go with --{flag}: {why}.")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def _spread(text: str) -> Spread:
    left, equals, expression = text.partition("=")
    expression = unquoted(expression.strip())
    variables = tuple(name.strip() for name in left.split(","))
    if not equals or not all(name.isidentifier() for name in variables):
        raise argparse.ArgumentTypeError(f"{text!r} is not like x=xs or x,y=pairs")
    try:
        ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise argparse.ArgumentTypeError(f"{expression!r} is not an expression") from error
    return Spread(variables, expression)
