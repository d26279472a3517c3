"""The dashboards of the user's clusters on this machine, and the keys of their pages."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import time

from tornado.httpclient import AsyncHTTPClient
from tornado.web import HTTPError

from nbray.launcher.found import found_nodes
from nbray.state.client import RpcError, find_dashboard
from nbray.state.dashboard import Dashboard, check_key, make_key

logger = logging.getLogger(__name__)

_VIEW_S = 12 * 3600.0
_KNOWN_S = 3.0
_LARGEST_ANSWER = 32 << 20


class Views:
    """The keys of pages that are shown; they end with this process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def new(self, port: int) -> str:
        """A key for the page of the dashboard with that port."""
        return make_key(self._secret, f"view {port}", time.time(), _VIEW_S)

    def holds(self, port: str, key: str) -> bool:
        """Whether it is such a key."""
        return check_key(self._secret, f"view {port}", key, time.time())


class Dashboards:
    """Those that the session folders of this user know, looked up again after some seconds."""

    def __init__(self) -> None:
        self._found: list[Dashboard] = []
        self._until = 0.0

    @functools.cached_property
    def client(self) -> AsyncHTTPClient:
        """Asks them; whoever listens there, an answer has a bound."""
        return AsyncHTTPClient(force_instance=True, max_body_size=_LARGEST_ANSWER)

    async def find(self, port: str) -> Dashboard:
        """The dashboard with that port; the newest if it is empty.

        Raises:
            HTTPError: there is none.
        """
        if time.monotonic() > self._until or not any(self._matching(port)):
            self._found = await asyncio.to_thread(_look)
            self._until = time.monotonic() + _KNOWN_S
        for dashboard in self._matching(port):
            return dashboard
        which = f"No cluster of yours has a dashboard with port {port}" if port else (
            "No cluster of yours with a dashboard runs here"
        )  # fmt: skip
        # Jupyter's page for 404 shows the reason alone.
        raise HTTPError(404, reason=f"{which}: %nbray start --head in a notebook starts one")

    def _matching(self, port: str) -> list[Dashboard]:
        return [found for found in self._found if port in ("", str(found.port))]


def _look() -> list[Dashboard]:
    found: dict[str, Dashboard] = {}
    for node in found_nodes():
        if not node.processes or node.gcs_address in found:
            continue
        try:
            dashboard = find_dashboard(node.gcs_address, node.session.token)
        except (RpcError, OSError) as error:  # it is leaving
            logger.info("Cluster %s does not tell of its dashboard: %s", node.gcs_address, error)
            continue
        if dashboard is not None:
            found[node.gcs_address] = dashboard
    return list(found.values())
