"""The options of a command, out of the table of `nbray.options`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from nbray.common.ignoring import ignore
from nbray.options.option import Option, Scope
from nbray.options.table import options_of

F = TypeVar("F", bound=Callable[..., Any])


class _Value(click.ParamType):  # type: ignore[type-arg]
    """The value of an option, as its declaration reads it."""

    def __init__(self, option: Option) -> None:
        self._option = option
        self.name = option.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType.convert`."""
        if not isinstance(value, str):
            return value
        try:
            return self._option.from_text(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


def _without_effect(option: Option) -> Callable[[click.Context, click.Parameter, Any], None]:
    """What is done about an option of Ray's that changes nothing here."""

    def told(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        try:
            option.check_refusal(value, option.flag)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if value:
            ignore(f"nbray {context.info_name}", (option.flag,))

    return told


def declared_options(scope: Scope, without: Collection[str] = ()) -> Callable[[F], F]:
    """Have a command take the options of a scope, ``without`` some.

    Its help does not list those of Ray's that have no effect, nor is the command told of them.
    """

    def mark(command: F) -> F:
        for option in reversed([*options_of(scope).values()]):
            if option.name not in without:
                command = _click_option(option)(command)
        return command

    return mark


def _click_option(option: Option) -> Callable[[F], F]:
    hidden: dict[str, Any] = {} if option.has_effect else {
        "hidden": True, "expose_value": False, "callback": _without_effect(option),
    }  # fmt: skip
    if option.is_switch:
        short = ("-v",) if option.name == "verbose" else ()  # as Ray's
        return click.option(option.flag, *short, is_flag=True, help=option.help, **hidden)
    return click.option(
        option.flag, type=_Value(option), default=option.default,
        show_default=option.default is not None, envvar=option.variable or None,
        help=option.help, **hidden,
    )  # fmt: skip
