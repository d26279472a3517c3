"""Calls are checked against their function's signature where they are made.

A call without keywords to a function of plain parameters costs two comparisons; every other one is
bound by `inspect.Signature`, whose texts the errors have. A handle carries the parameters of its
actor's methods as data, since it may be where the class is not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from nbray.wire.records import Parameter

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def parameters_of(function: Callable[..., Any], *, skip_first: bool = False) -> list[Parameter]:
    """The parameters of a function or class, as they travel.

    Args:
        function: a function whose signature cannot be told takes anything.
        skip_first: leave out the first one, which is the instance.
    """
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return _ANYTHING
    if skip_first and found and found[0].kind in _POSITIONAL:
        del found[0]
    return [Parameter(p.name, int(p.kind), p.default is not p.empty) for p in found]


_ANYTHING = [
    Parameter("args", int(inspect.Parameter.VAR_POSITIONAL)),
    Parameter("kwargs", int(inspect.Parameter.VAR_KEYWORD)),
]


class CallCheck:
    """Whether arguments fit a function's parameters.

    Attributes:
        least: so many arguments without keywords are enough.
        most: and so many are not too many.
    """

    __slots__ = ("_parameters", "_positional_only", "_signature", "least", "most")

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        kinds = [parameter.kind for parameter in parameters]
        plain = [p for p in parameters if p.kind in _POSITIONAL]
        self.least = sum(not parameter.optional for parameter in plain)
        self.most: float = len(plain)
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            self.most = float("inf")
        if any(p.kind == inspect.Parameter.KEYWORD_ONLY and not p.optional for p in parameters):
            self.most = -1  # no call without keywords will do
        self._parameters = parameters
        self._positional_only = [
            p.name
            for p in parameters
            if p.kind == inspect.Parameter.POSITIONAL_ONLY and not p.optional
        ]
        self._signature: inspect.Signature | None = None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check one call.

        Raises:
            TypeError: an argument is missing, or one too many.
        """
        if not kwargs and self.least <= len(args) <= self.most:
            return
        if len(args) < len(self._positional_only):  # Python 3.13's `bind` takes a keyword for it
            missing = self._positional_only[len(args)]
            raise TypeError(f"missing a required argument: {missing!r}")
        if self._signature is None:
            self._signature = inspect.Signature([_as_inspected(p) for p in self._parameters])
        self._signature.bind(*args, **kwargs)


def _as_inspected(parameter: Parameter) -> inspect.Parameter:
    kind = inspect._ParameterKind(parameter.kind)
    if not parameter.optional:
        return inspect.Parameter(parameter.name, kind)
    name = parameter.name
    if kind is inspect.Parameter.POSITIONAL_ONLY:
        # Python 3.11's `bind` refuses a keyword of that name, which ``**kwargs`` may take.
        name = f"_{name}_"
    return inspect.Parameter(name, kind, default=None)


class KeptCheck:
    """The check of one function, made when it is first called."""

    __slots__ = ("_check", "_least", "_most", "_target")

    def __init__(self, target: Callable[..., Any]) -> None:
        self._target = target
        self._check: CallCheck | None = None
        self._least, self._most = 1, 0.0  # nothing is between them

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check one call; raises as `CallCheck`."""
        if not kwargs and self._least <= len(args) <= self._most:
            return
        if self._check is None:
            self._check = CallCheck(parameters_of(self._target))
            self._least, self._most = self._check.least, self._check.most
        self._check(args, kwargs)
