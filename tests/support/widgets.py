"""What front ends do with output while a widget is open."""

from __future__ import annotations

from support.kernel import Cell


def taken_by_widgets(cell: Cell) -> str:
    """What a front end puts into output widgets: what comes while one has named the cell.

    NotebookClient has widgets, too, but answers each message for one over the socket where it
    waits for the end of the cell, behind the back of the event loop: if that end has just arrived,
    it is not woken, with or without nbray.
    """
    taken, is_open = "", False
    for kind, content in cell.messages:
        if kind == "comm_msg" and "msg_id" in content["data"].get("state", {}):
            is_open = bool(content["data"]["state"]["msg_id"])
        elif kind == "stream" and is_open:
            taken += content["text"]
    return taken
