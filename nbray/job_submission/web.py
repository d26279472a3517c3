"""How a client reaches a dashboard, and shows who it is.

A member of a cluster on this machine, or one that reaches its GCS, signs each request and checks
the answer, so that what listens on a dashboard's port in its stead gets nothing to use and is not
believed. Who knows an http address only shows the token as a bearer, as Ray's clients do.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import urlsplit

from nbray.exceptions import AuthenticationError
from nbray.launcher.token import load_token
from nbray.state.client import RpcError, dashboard_here, find_cluster, find_dashboard
from nbray.state.dashboard import Dashboard

ADDRESS_VARIABLES = (
    "NBRAY_API_SERVER_ADDRESS", "RAY_API_SERVER_ADDRESS", "NBRAY_ADDRESS", "RAY_ADDRESS",
)  # fmt: skip
_HEADERS_VARIABLES = ("NBRAY_JOB_HEADERS", "RAY_JOB_HEADERS")
_TIMEOUT_S = 100.0
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Server:
    """A dashboard: where it is, and how a request to it is made credible.

    Attributes:
        url: "http://host:port", perhaps with a path.
        headers: what goes with every request.
        dashboard: for whom requests are signed, if they are.
        verify: of https, whether or by which file of authorities the certificate is checked.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    dashboard: Dashboard | None = field(default=None, repr=False)
    verify: bool | str = True

    def ask(
        self, method: str, path: str, body: bytes | IO[bytes] | None = None,
        kind: str = "application/json",
    ) -> tuple[int, bytes]:  # fmt: skip
        """Status and body of an answer; a body in a file is sent from its beginning, in parts.

        Raises:
            AuthenticationError: the dashboard does not know this program.
            ConnectionError: nobody answers, or somebody else.
        """
        parts = urlsplit(self.url)
        target = parts.path.rstrip("/") + path
        headers = self._shown(method, target, body)
        if body is not None:
            headers["Content-Type"] = kind
            if not isinstance(body, bytes):
                headers["Content-Length"] = str(body.seek(0, os.SEEK_END))
                body.seek(0)
        connection = self._connection(parts.scheme, parts.hostname or "", parts.port)
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(
                f"The dashboard at {self.url} does not answer: {error}"
            ) from error
        finally:
            connection.close()
        if self.dashboard is not None:
            got = {name.title(): value for name, value in answer.getheaders()}
            self.dashboard.check_answer(headers, answer.status, got, said)
        if answer.status in (401, 403):
            text = said.decode(errors="replace")
            raise AuthenticationError(
                f"The dashboard at {self.url} refuses this program ({answer.status}): {text} It "
                "takes the token in the head node's ~/.nbray/auth_token, by NBRAY_AUTH_TOKEN or "
                "the same file here."
            )
        return answer.status, said

    def _shown(
        self, method: str, target: str, body: bytes | IO[bytes] | None = None
    ) -> dict[str, str]:
        if self.dashboard is None:
            return dict(self.headers)
        signed = self.dashboard.signed(method, target, time.time(), _digest(body))
        return {**self.headers, **signed}

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        return http.client.HTTPSConnection(
            host, port, timeout=_TIMEOUT_S, context=self.certificates()
        )

    def certificates(self) -> ssl.SSLContext:
        """How a certificate is checked: a member knows the cluster's own authority."""
        if self.dashboard is not None and self.dashboard.has_tls:
            return self.dashboard.trust()
        if isinstance(self.verify, str):
            try:
                return ssl.create_default_context(cafile=self.verify)
            except OSError as error:
                raise ConnectionError(
                    f"No authorities can be read from {self.verify!r}: {error}"
                ) from error
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def websocket(self, path: str) -> tuple[str, dict[str, str]]:
        """The URL of a WebSocket there, and the headers that open it."""
        target = urlsplit(self.url).path.rstrip("/") + path
        shown = self._shown("GET", target)
        return f"ws{self.url.removeprefix('http').rstrip('/')}{path}", shown


def _digest(body: bytes | IO[bytes] | None) -> str:
    """What a signature says of a body; nothing of none."""
    found = hashlib.sha256()
    if body is None or isinstance(body, bytes):
        found.update(body or b"")
    else:
        body.seek(0)
        while block := body.read(_BLOCK):
            found.update(block)
    return found.hexdigest() if body else ""


def find_server(
    address: str | None, headers: Mapping[str, Any] | None, verify: bool | str | None
) -> Server:
    """The dashboard that is meant.

    Args:
        address: "http://..." of a dashboard, or "host:port" of a GCS; None takes the variables
            (`ADDRESS_VARIABLES`) or the newest cluster of this machine.
        headers: what goes with every request; None takes ``RAY_JOB_HEADERS``.
        verify: see `Server`.

    Raises:
        ConnectionError: there is no such cluster, or it has no dashboard.
    """
    address = address or next(filter(None, map(os.environ.get, ADDRESS_VARIABLES)), None)
    shown = {str(name): str(value) for name, value in (headers or _headers()).items()}
    check = True if verify is None else verify
    if address in (None, "auto") or "://" not in str(address):
        return Server(*_of_cluster(None if address == "auto" else address, shown), check)
    scheme = str(address).partition("://")[0]
    if scheme not in ("http", "https"):
        raise ConnectionError(
            f"{address!r} is no address of a dashboard: that is http://HOST:8265, or HOST:PORT of "
            "a GCS."
        )
    if (here := dashboard_here(str(address))) is not None:
        return Server(here[1].base, shown, here[1], check)
    if not any(name.lower() in ("authorization", "x-ray-authorization") for name in shown):
        with suppress(FileNotFoundError, UnicodeDecodeError):  # the dashboard says what it wants
            shown["Authorization"] = f"Bearer {load_token(create=False).decode()}"
    return Server(str(address), shown, None, check)


def _headers() -> dict[str, Any]:
    for name in _HEADERS_VARIABLES:
        if text := os.environ.get(name):
            try:
                found = json.loads(text)
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise ValueError(f"{name} is a JSON object of headers, not {text[:80]!r}.")
            return found
    return {}


def _of_cluster(
    address: str | None, headers: dict[str, str]
) -> tuple[str, dict[str, str], Dashboard]:
    found, token = find_cluster(address)
    try:
        dashboard = find_dashboard(found, token)
    except RpcError as error:
        raise ConnectionError(f"No cluster answers at {found}: {error}") from error
    if dashboard is None:
        raise ConnectionError(
            f"The cluster at {found} has no dashboard, which takes jobs. Start the head node with "
            "--include-dashboard true."
        )
    return dashboard.base, headers, dashboard
