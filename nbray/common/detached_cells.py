"""Where notebooks keep their detached cells in the GCS, for those who only list them."""

from __future__ import annotations

import json
from typing import Any

NOTEBOOKS = b"nbray.notebooks"
"""The namespace of keys that is the notebooks'."""
ROWS = b"detached/name/"
"""What the keys of the rows begin with: one row for each cell, as JSON."""
ENDED = ("done", "failed", "cancelled")


def running_name(row: bytes) -> str:
    """The name of a cell that goes on without its notebook; "" if this one does not."""
    known: dict[str, Any] = json.loads(row)
    return "" if known["state"] in ENDED or known["tied"] else str(known["name"])
