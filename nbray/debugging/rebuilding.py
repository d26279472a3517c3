"""Makes a traceback of a picture, with real frames that any debugger walks.

For each frame a function of the same name, file, lines and parameters is compiled that does nothing
but set its names and return its own frame.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import linecache
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType, TracebackType
from typing import Any

from .pictures import Frame, Kept, Picture, Source

_VALUES, _HERE = "__nbray_values__", "__nbray_frame__"
FindGlobals = Callable[[str], Mapping[str, Any]]
"""The names of a module, as this process has them."""


class Shown:
    """Stands for a value that stayed where the task ran; its ``repr`` is the value's."""

    def __init__(self, kind: str, text: str) -> None:
        self.__dict__["_kind"] = kind
        self.__dict__["_text"] = text

    def __repr__(self) -> str:
        return str(self.__dict__["_text"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        kind = self.__dict__["_kind"]
        raise AttributeError(
            f"this {kind} stayed in its worker: it was too large, or could not be pickled. "
            "%%remote --debug has a cell's worker wait, with the value in it."
        )


def opened(values: Sequence[Kept], find: FindGlobals) -> list[Any]:
    """The values of a picture, as far as they can be read here."""
    return [_open(value, find) for value in values]


def _open(kept: Kept, find: FindGlobals) -> Any:
    if kept.how == "pickle":
        try:
            return pickle.loads(kept.pickle)
        except Exception as problem:  # the code of the user's class, or it is not to be had here
            return Shown(kept.kind, f"<{kept.kind} that cannot be read here: {problem!r}>")
    if kept.how == "module" and kept.shown in sys.modules:
        return sys.modules[kept.shown]
    if kept.how == "main":
        name, _, inner = kept.shown.partition(".")
        found = find("__main__").get(name)
        if found is not None and not inner:
            return getattr(found, "_function", found) if kept.kind == "function" else found
    return Shown(kept.kind, kept.shown if kept.how == "text" else f"<{kept.kind} {kept.shown}>")


def traceback_of(
    frames: Sequence[Frame], values: Sequence[Any], find: FindGlobals,
    inner: TracebackType | None = None,
) -> TracebackType | None:  # fmt: skip
    """The frames as a traceback, in front of ``inner``; None without any."""
    tb = inner
    for frame in reversed(frames):
        tb = TracebackType(tb, _real(frame, values, find), 0, max(1, frame.line))
    return tb


def remember_sources(picture: Picture) -> None:
    """Let this process know the lines of files that it does not have itself."""
    for file, source in picture.sources.items():
        if source.text and not linecache.getlines(file):
            lines = _lines(source)
            linecache.cache[file] = (sum(map(len, lines)), None, lines, file)


def _lines(source: Source) -> list[str]:
    return ["\n"] * (source.first - 1) + source.text.splitlines(keepends=True)


def _real(frame: Frame, values: Sequence[Any], find: FindGlobals) -> FrameType:
    namespace: dict[str, Any] = {
        **find(frame.module),
        "__name__": frame.module,
        **{name: values[number] for name, number in frame.globals.items()},
    }
    namespace.setdefault("__builtins__", builtins)
    names = {
        name: values[number]
        for name, number in frame.names.items()
        if name.isidentifier() and not keyword.iskeyword(name)
    }
    namespace[_HERE] = sys._getframe
    made: FrameType
    try:
        if frame.is_module:
            namespace.update(names)
            body: list[ast.stmt] = [_stored(_HERE, ast.Call(_read(_HERE), [], []))]
            exec(_compiled(body, frame), namespace)
            made = namespace[_HERE]
        else:
            namespace[_VALUES] = names
            scope: dict[str, Any] = {}
            exec(_compiled([_function(frame, names)], frame), namespace, scope)
            function = scope["_"]
            function.__code__ = function.__code__.replace(
                co_name=frame.function, co_qualname=frame.function
            )
            count = frame.positional
            made = function(
                *[None] * count,
                **dict.fromkeys(frame.parameters[count : count + frame.keyword_only]),
            )
    finally:
        namespace.pop(_HERE, None)
        namespace.pop(_VALUES, None)
    return made


def _function(frame: Frame, names: Mapping[str, Any]) -> ast.stmt:
    """A function with the frame's parameters that sets ``names`` and returns its own frame."""
    left = list(frame.parameters)
    positional, left = left[: frame.positional], left[frame.positional :]
    keywords, left = left[: frame.keyword_only], left[frame.keyword_only :]
    rest = ast.arg(left.pop(0)) if frame.has_args else None
    more = ast.arg(left.pop(0)) if frame.has_kwargs else None
    parameters = ast.arguments(
        posonlyargs=[], args=[ast.arg(name) for name in positional], vararg=rest,
        kwonlyargs=[ast.arg(name) for name in keywords],
        kw_defaults=[None] * len(keywords), kwarg=more, defaults=[],
    )  # fmt: skip
    body: list[ast.stmt] = [
        _stored(name, ast.Subscript(_read(_VALUES), ast.Constant(name), ast.Load()))
        for name in names
    ]
    unbound = [name for name in frame.parameters if name not in names]
    body += [ast.Delete([ast.Name(name, ast.Del())]) for name in unbound]
    body.append(ast.Return(ast.Call(_read(_HERE), [], [])))
    return ast.FunctionDef("_", parameters, body, [], None, type_params=[])  # type: ignore[call-arg,unused-ignore]


def _read(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _stored(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _compiled(body: list[ast.stmt], frame: Frame) -> CodeType:
    module = ast.Module(body, [])
    for node in ast.walk(module):
        if "lineno" in node._attributes:
            line = frame.first_line if isinstance(node, ast.FunctionDef) else frame.line
            node.lineno = node.end_lineno = max(1, line)  # type: ignore[attr-defined]
            node.col_offset = node.end_col_offset = 0  # type: ignore[attr-defined]
    return compile(module, frame.file, "exec", dont_inherit=True)
