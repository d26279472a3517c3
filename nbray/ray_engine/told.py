"""What a cell raised that Ray would not bring to the notebook, in an exception that it brings.

Ray's worker dies of a text that is no Unicode, calls an exception's class with its ``args``, which
many classes do not take, and makes another class of one of the notebook's, which no ``except``
there knows.
"""

from __future__ import annotations

import pickle
import traceback

from nbray.causes import load, pack
from nbray.cloudpickle import dumps
from nbray.common.text import encodable


class ToldError(Exception):
    """Stands for another exception: its arguments are what that says, and that, packed."""

    def __str__(self) -> str:
        return str(self.args[0])

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
    if text and not of_the_notebook and encodable(text) == text and _can_be_read(error):
        return error
    return ToldError(said, pack(error, in_band=True)).with_traceback(error.__traceback__)


def _can_be_read(error: Exception) -> bool:
    try:
        pickle.loads(dumps(error))
    except Exception:  # the code of the user's class
        return False
    return True
