"""The options of ``nbray start`` in a cell: ``%nbray start`` takes them all, as the table has them.

Those that cannot come true in a kernel are refused by name, with the reason; so are those that the
command refuses itself. Those without an effect are taken.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError

from nbray.common.ignoring import ignore
from nbray.options.option import Option, Scope
from nbray.options.table import options_of

from .parser import Parser, add_declared, given

_NOT_IN_A_CELL = {
    "block": "the cell would never end. A cluster lives as long as this kernel anyway; with "
    "--detach it outlives it",
    "keep_session": "the folder of a cluster that ends with this kernel goes with it. With "
    "--detach the cluster stays, and `nbray stop` ends it",
}
_OF_ANY_NODE = (
    "node_ip_address", "interface", "num_cpus", "num_gpus", "memory", "resources", "labels",
    "labels_file", "object_store_memory", "object_spilling_directory", "system_config",
    "node_manager_port", "object_manager_port", "min_worker_port", "max_worker_port",
)  # fmt: skip
"""What a node that joins a cluster has, too; the others are of a head."""
_OWN = ("head", "address")


def _taken() -> list[Option]:
    return [
        option
        for name, option in options_of(Scope.START).items()
        if option.has_effect and name not in _OWN and name not in _NOT_IN_A_CELL
    ]


def _others() -> list[Option]:
    """Those that are refused, or taken without an effect."""
    return [
        option
        for name, option in options_of(Scope.START).items()
        if not option.has_effect or name in _NOT_IN_A_CELL
    ]


def add_start_options(parser: Parser) -> None:
    """Have a line take all options of ``nbray start`` but ``--head``."""
    add_declared(parser, Scope.START, [option.name for option in _taken()] + ["address"])
    for option in _others():
        kind: dict[str, Any] = {"action": "store_true"} if option.is_switch else {}
        parser.add_argument(option.flag, dest=option.name, help=argparse.SUPPRESS, **kind)


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a line, or of the environment, by their names.

    Raises:
        UsageError: one of them is refused.
    """
    for option in _others():
        _take_without_effect(option, getattr(arguments, option.name))
    said = given(arguments, *(option.name for option in _taken()))
    if "@" in str(said.get("storage", "")):
        raise UsageError(
            "%nbray start --storage: a notebook is saved with what stands in its cells: give a "
            "URL with a password in the environment variable NBRAY_STORAGE of the kernel (and "
            "change this password)."
        )
    storage = os.environ.get(options_of(Scope.START)["storage"].variable)
    if storage and arguments.address is None and not arguments.detach:  # the command reads it too
        said.setdefault("storage", storage)
    return said


def _take_without_effect(option: Option, value: Any) -> None:
    if value in (None, False):
        return
    if (why := _NOT_IN_A_CELL.get(option.name)) is not None:
        raise UsageError(f"%nbray start {option.flag}: {why}.")
    if option.refusal:
        try:
            read = value if value is True else option.from_text(value)
            option.check_refusal(read, option.flag)
        except ValueError as error:
            raise UsageError(f"%nbray start: {error}") from error
    else:
        ignore("%nbray start", (option.flag,))


def refuse_of_head(options: Mapping[str, Any]) -> None:
    """Raise UsageError if one of them has no meaning for a node that joins a cluster."""
    for name in options:
        if name not in _OF_ANY_NODE:
            flag = options_of(Scope.START)[name].flag
            raise UsageError(
                f"%nbray start --address: {flag} is of a head, and this node joins a cluster that "
                "has one."
            )


def as_init_has_them(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same as arguments of `nbray.init`; None if it lacks one of them."""
    at_init = options_of(Scope.INIT)
    found = {}
    for name, value in options.items():
        here = name if name in at_init else f"_{name}"
        if value is None:
            continue
        if here not in at_init:
            return None
        found[here] = value
    return found


def as_words(address: str | None, options: Mapping[str, Any]) -> list[str]:
    """The same as words of the command ``nbray start``, of a head or of a node that joins."""
    known = options_of(Scope.START)
    if address is not None:
        begin = [known["address"].as_word(address)]
    else:
        port = options.get("port", 0)  # the command's own default may be taken already
        begin = ["--head", known["port"].as_word(port)]
    return begin + [
        known[name].as_word(value)
        for name, value in options.items()
        if name != "port" and value is not None
    ]
