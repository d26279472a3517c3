"""What tasks would tell their notebook beside their output: on Ray they tell no such thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .refusals import refused


class NoAsides:
    """See `nbray.notebook.Asides`."""

    def listen(self, listener: Callable[[Any], None] | None) -> None:
        """Nothing comes."""

    def answer(self, worker_id: bytes, number: int, content: bytes) -> None:
        """See `nbray.notebook.Asides`."""
        raise refused("%nbray debug")

    def is_there(self, worker_id: bytes) -> bool:
        """No worker asks."""
        return False

    def keep_task(self, data: bytes) -> Any:
        """See `nbray.notebook.Asides`."""
        raise refused("%nbray debug")

    def interject(self, *_what: Any, **_how: Any) -> Any:
        """See `nbray.notebook.Asides`."""
        raise refused("%nbray debug")
