"""What a browser does without a browser."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from nbray.driver.context import NbrayContext


def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, str, Any]:
    """Status, body and headers; redirects are not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: Any) -> None:
            return None

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay())
    try:
        with opener.open(urllib.request.Request(url, headers=headers or {}), timeout=60) as reply:
            return reply.status, reply.read().decode(), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def bearer(context: NbrayContext) -> dict[str, str]:
    token = (Path(context["session_dir"]) / "token").read_bytes()
    return {"Authorization": f"Bearer {token.hex()}"}
