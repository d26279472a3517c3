"""A pdb whose keyboard is elsewhere: it asks for each line, and hands over what it has printed."""

from __future__ import annotations

import io
import pdb
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from .taking import is_ours

Ask = Callable[[str, str], str | None]
"""Takes text and a prompt; returns the next line, None when nobody will type one any more."""
_MOST_TEXT = 1 << 20


class RemotePdb(pdb.Pdb):
    """Debugs this thread.

    It is over when it goes on for good (``continue`` without breakpoints, ``quit``), or when the
    outermost of the user's frames returns: what called it is nbray, which is not stepped through.
    """

    def __init__(self, ask: Ask, ended: Callable[[str, str], None]) -> None:
        """``ended`` is told once what was still printed, and why it is over."""
        self._ask = ask
        self._ended: Callable[[str, str], None] | None = ended
        self._text = io.StringIO()
        self._outermost: FrameType | None = None
        super().__init__(
            stdin=self, stdout=self, skip=["nbray", "nbray.*"],  # type: ignore[arg-type]
            nosigint=True, readrc=False,
        )  # fmt: skip
        self.use_rawinput = False
        self.prompt = ""

    # --- what pdb takes for its files --------------------

    def write(self, text: str) -> int:
        """Something is printed."""
        if self._text.tell() < _MOST_TEXT:
            self._text.write(text[:_MOST_TEXT])
        return len(text)

    def flush(self) -> None:
        """It is sent with the next question."""

    def readline(self) -> str:
        """The next line of the person."""
        line = self._ask(self._take(), "(Pdb) ")
        if line is None:
            self.clear_all_breaks()
            return "continue\n"
        return line + "\n"

    def _take(self) -> str:
        text = self._text.getvalue()
        self._text = io.StringIO()
        if len(text) >= _MOST_TEXT:
            text = f"{text[:_MOST_TEXT]}\n... (longer than is shown)\n"
        return text.encode(errors="backslashreplace").decode()

    # --- its life --------------------

    def stop_at(self, frame: FrameType) -> None:
        """Stop at the next line of ``frame``."""
        self._outermost = outermost(frame)
        self.set_trace(frame)

    def walk(self, tb: TracebackType) -> None:
        """Look at the frames of a failure."""
        self.reset()
        self.interaction(None, tb)
        self._over("It was left.")

    def _cmdloop(self) -> None:
        self.cmdloop()  # pdb's own goes on when it is interrupted

    def set_continue(self) -> None:
        """Go on; that is the end of it when there are no breakpoints."""
        super().set_continue()
        if not self.breaks:
            self._over("It goes on.")

    def set_quit(self) -> None:
        """End the task."""
        super().set_quit()
        self._over("It was ended: bdb.BdbQuit.")

    def dispatch_return(self, frame: FrameType, arg: Any) -> Any:
        """A frame returns."""
        traced = super().dispatch_return(frame, arg)
        if frame is not self._outermost:
            return traced
        sys.settrace(None)
        self._over("It has returned.")
        return None

    def _over(self, why: str) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self._take(), why)


def outermost(frame: FrameType) -> FrameType:
    """The outermost frame of the user's code that ``frame`` stands in."""
    while frame.f_back is not None and not is_ours(frame.f_back.f_globals.get("__name__")):
        frame = frame.f_back
    return frame
