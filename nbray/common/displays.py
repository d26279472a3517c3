"""What a worker sends of something rich that was displayed: one of Jupyter's messages, bounded."""

from __future__ import annotations

import json
from typing import Any

MOST_BYTES = 32 << 20
"""No page is shown more at once."""
_MOST_PLAIN = 10_000


def as_json(content: dict[str, Any]) -> str:
    """A display's content; of one that is too large its plain text, and that it is."""
    encoded = json.dumps(content)
    if len(encoded) <= MOST_BYTES:
        return encoded
    shown = str(content.get("data", {}).get("text/plain", ""))[:_MOST_PLAIN]
    note = f"{shown}\n(too large to be shown: {len(encoded) / 1e6:.0f} MB)"
    return json.dumps({**content, "data": {"text/plain": note}, "metadata": {}})
