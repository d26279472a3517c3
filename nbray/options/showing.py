"""Options as others show them: signatures for `inspect` and completion, a table for documents."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from nbray.options.option import Option, Scope
from nbray.options.table import options_of

F = TypeVar("F", bound=Callable[..., Any])


def takes_options(*scopes: Scope) -> Callable[[F], F]:
    """Have the signature and docstring of a function name the options of these scopes.

    The function takes them as ``**options``; its docstring's section "Args" ends with them.
    """

    def mark(function: F) -> F:
        own = inspect.signature(function)
        named = {name: option for scope in scopes for name, option in options_of(scope).items()}
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default)
            for name, option in named.items()
        ]
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shown = own.replace(parameters=[*kept, *options])
        function.__signature__ = shown  # type: ignore[attr-defined]
        if function.__doc__ is not None:  # else Python runs without docstrings
            # From 3.13 on a docstring has no indent of its own: so here on all.
            before, returns, after = inspect.cleandoc(function.__doc__).partition("\nReturns:")
            told = [f"    {name}: {option.help}" for name, option in named.items()]
            function.__doc__ = "\n".join([before.rstrip(), *told, returns + after])
        return function

    return mark


def as_markdown(scope: Scope) -> str:
    """A table of the options of a scope: their names, types, defaults and what they say.

    What Ray has and nbray takes without an effect is named in one line below, and what it refuses
    in another table.
    """
    options = options_of(scope).values()
    lines = ["| option | type | default | |", "|---|---|---|---|"]
    lines += [_row(option, scope) for option in options if option.has_effect]
    others = [option for option in options if not option.has_effect]
    ignored = [f"`{_name(option, scope)}`" for option in others if not option.refusal]
    if ignored:
        lines += ["", f"Taken for Ray's sake, without an effect: {', '.join(ignored)}."]
    refused = [option for option in others if option.refusal]
    if refused:
        lines += ["", "Refused, unless it is as by default:", "", "| | why |", "|---|---|"]
        lines += [f"| `{_name(option, scope)}` | {option.refusal} |" for option in refused]
    return "\n".join(lines) + "\n"


def _name(option: Option, scope: Scope) -> str:
    return option.flag if scope is Scope.START else option.name


def _row(option: Option, scope: Scope) -> str:
    kinds = [kind.__name__ for kind in option.types if kind is not object]
    cells = (
        f"`{_name(option, scope)}`",
        ", ".join(f"`{kind}`" for kind in kinds),
        "" if option.default is None else f"`{option.default}`",
        option.help + (f" Also `{option.variable}`." if option.variable else ""),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
