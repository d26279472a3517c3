"""What cells show in a keeper: its router writes records, where a kernel's has a notebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..output.router import OutputRouter


class Pages:
    """What the router takes for a kernel: each detached cell has a page of its own."""

    session = iopub_socket = None
    ident = "keeper"

    def __init__(self) -> None:
        self.current = ""

    def get_parent(self) -> dict[str, Any]:
        """What stands for the request of the cell that begins."""
        return {"header": {"msg_id": self.current}}


class RecordingRouter(OutputRouter):
    """Output goes into records instead of a notebook."""

    def __init__(self, pages: Pages, take: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._take = take
        super().__init__(pages, lambda: "")

    def publish(self, kind: str, content: dict[str, Any], cell: dict[str, Any]) -> None:
        """See `OutputRouter`."""
        self._take(str(cell.get("header", {}).get("msg_id", "")), kind, content)

    def _captures(self, message: object = None) -> bool:
        return False
