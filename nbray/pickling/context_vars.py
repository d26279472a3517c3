"""Context variables that travel: the same one wherever a process gets it, without its value.

What is set in a worker stays in its thread, as in Ray: a plain actor keeps it from call to call, a
threaded one in each of its threads, and a later task of the same worker finds it, too. Each call
of an async actor has a context of its own.
"""

from __future__ import annotations

import contextlib
import uuid
from contextvars import Context, ContextVar
from typing import Any

_tokens: dict[ContextVar[Any], str] = {}
_known: dict[str, ContextVar[Any]] = {}


def reduce_context_var(variable: ContextVar[Any]) -> tuple[Any, ...]:
    """How one is pickled. It is kept for good, as the contexts keep it in which it is set."""
    token = _tokens.get(variable)
    if token is None:
        token = _tokens[variable] = uuid.uuid4().hex
        _known[token] = variable
    default: tuple[Any, ...] = ()
    with contextlib.suppress(LookupError):  # it has none
        default = (Context().run(variable.get),)
    return _context_var, (token, variable.name, default)


def _context_var(token: str, name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    found = _known.get(token)
    if found is None:
        keywords = {"default": default[0]} if default else {}
        made: ContextVar[Any] = ContextVar(name, **keywords)
        found = _known.setdefault(token, made)
        _tokens[found] = token
    return found
