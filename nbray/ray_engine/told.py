"""What a cell raised that Ray would not bring to the notebook, in an exception that it brings.

Ray's worker dies of a text that is no Unicode, and calls an exception's class with its ``args``,
which many classes do not take.
"""

from __future__ import annotations

import pickle
import traceback

from nbray import causes, cloudpickle
from nbray.common.text import encodable


class ToldError(Exception):
    """Stands for another exception: its arguments are what that says, and that, packed."""

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def cause(self) -> BaseException | None:
        """The other one, if it can be had here."""
        try:
            return None if self.args[1] is None else causes.load(self.args[1])
        except Exception:  # the code of the user's class
            return None


TITLE = f"{ToldError.__module__}.{ToldError.__qualname__}: "
"""What Python writes before its text."""


def as_told(error: Exception) -> Exception:
    """``error`` as Ray can bring it: itself, or what stands for it, with its frames."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(cloudpickle.dumps(error))
    except Exception:  # the code of the user's class
        travels = False
    else:
        travels = encodable(text) == text
    if travels:
        return error
    said = encodable("".join(traceback.format_exception_only(error)).rstrip("\n"))
    return ToldError(said, causes.pack(error, in_band=True)).with_traceback(error.__traceback__)
