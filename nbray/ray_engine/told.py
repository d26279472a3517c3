"""What a cell raised that Ray would not bring to the notebook, in an exception that it brings.

Ray's worker dies of a text that is no Unicode, calls an exception's class with its ``args``, which
many classes do not take, and makes another class of one of the notebook's, which no ``except``
there knows. It cuts the second and third line off each traceback, which are those of its own frame,
but of the first cause's if there is one. A text of 50 MB it copies and compares for many seconds.
"""

from __future__ import annotations

import pickle
import traceback

from nbray.causes import load, pack
from nbray.cloudpickle import dumps
from nbray.common.text import encodable, without_middle

_LONGEST = 1 << 16


class ToldError(Exception):
    """Stands for another exception: its arguments are what that says, that, packed, and `text`."""

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def text(self) -> str:
        """The whole traceback, of which no line is left out; "" when it could not be written."""
        return str(self.args[2])

    def original(self) -> BaseException | None:
        """The other one, if it can be had here."""
        try:
            return None if self.args[1] is None else load(self.args[1])
        except Exception:  # the code of the user's class
            return None


TITLE = f"{ToldError.__module__}.{ToldError.__qualname__}: "
"""What Python writes before its text."""


def as_told(error: Exception) -> Exception:
    """``error`` as Ray can bring it: itself, or what stands for it, with its frames."""
    try:
        text = "".join(traceback.format_exception(error))
        said = encodable("".join(traceback.format_exception_only(error)).rstrip("\n"))
    except Exception as problem:  # the code of the user's class
        text, said = "", f"{type(error).__qualname__}: <it cannot be shown: {problem!r}>"
    of_the_notebook = "__main__" in [cls.__module__ for cls in type(error).__mro__]
    is_plain = text and len(text) <= _LONGEST and not (of_the_notebook or _has_cause(error))
    if is_plain and encodable(text) == text and _can_be_read(error):
        return error
    packed = pack(error, in_band=True)
    told = ToldError(without_middle(said), packed, without_middle(text))
    return told.with_traceback(error.__traceback__)


def _has_cause(error: Exception) -> bool:
    """Whether its traceback has that of another one."""
    context = None if error.__suppress_context__ else error.__context__
    return error.__cause__ is not None or context is not None


def _can_be_read(error: Exception) -> bool:
    try:
        pickle.loads(dumps(error))
    except Exception:  # the code of the user's class
        return False
    return True
