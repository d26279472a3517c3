"""A log that a flood cannot fill: what strangers cause is told, but not each time."""

from __future__ import annotations

import logging
import time

_BURST = 5


class SparingLog:
    """Writes a handful of lines at once and then one a second, with how many were left out.

    Example:
        >>> log = SparingLog(logging.getLogger("doc"))
        >>> log.warning("Closed a connection: %s.", "no handshake in time")
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._allowed = float(_BURST)
        self._looked = time.monotonic()
        self._left_out = 0

    def warning(self, text: str, *args: object) -> None:
        """Write the line, unless too many were written just now."""
        self._write(logging.WARNING, text, args)

    def info(self, text: str, *args: object) -> None:
        """The same of what is no matter of a program in which it happens."""
        self._write(logging.INFO, text, args)

    def _write(self, level: int, text: str, args: tuple[object, ...]) -> None:
        now = time.monotonic()
        self._allowed = min(float(_BURST), self._allowed + now - self._looked)
        self._looked = now
        if self._allowed < 1.0:
            self._left_out += 1
            return
        self._allowed -= 1.0
        if self._left_out:
            text += " (And %d lines of the kind before it.)"
            args = (*args, self._left_out)
            self._left_out = 0
        self._logger.log(level, text, *args)
