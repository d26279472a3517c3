"""The API of Kubernetes as a pod reaches it: JSON by HTTPS, with the token of its account."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from nbray.autoscaler.providers.base import ProviderError

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_CONNECT_S = 5.0
_REQUEST_S = 20.0
_LARGEST = 64 << 20


class Refusal(Exception):
    """The API answered with an error.

    Attributes:
        code: of HTTP.
        reason: a word such as ``AlreadyExists``.
        message: for people.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message


class Api:
    """Requests to one API server.

    Args:
        server: its URL; empty: where every pod finds it.

    Raises:
        ProviderError: this is no pod, and no server is named.
    """

    def __init__(self, server: str = "", account: Path = _ACCOUNT) -> None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), ""
        if not server and host:
            port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        if not server:
            raise ProviderError(
                "The provider kubernetes runs in a pod of the cluster, and this is none: name the "
                "API by provider.api_server (`kubectl proxy` makes one)."
            )
        self.server = server.rstrip("/")
        self._account = account
        authority = account / "ca.crt"
        self._trust = (
            ssl.create_default_context(cafile=str(authority)) if authority.exists() else None
        )
        self._client: AsyncHTTPClient = SimpleAsyncHTTPClient(
            force_instance=True, max_clients=20, max_body_size=_LARGEST, max_buffer_size=_LARGEST
        )

    @property
    def namespace(self) -> str:
        """The namespace of this pod; ``default`` outside of one."""
        try:
            return (self._account / "namespace").read_text().strip()
        except OSError:
            return "default"

    async def get(self, path: str, **query: str | int) -> Any:
        """An object or a list; for errors see `call`."""
        return await self.call("GET", path, query=query)

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Any:  # fmt: skip
        """One request.

        Raises:
            Refusal: the server answered with an error.
            ProviderError: it does not answer.
        """
        answer = await self._send(method, path, body, query or {})
        return json.loads(answer) if answer else None

    async def text(self, path: str, **query: str | int) -> str:
        """What is no JSON: a log; for errors see `call`."""
        return (await self._send("GET", path, None, query)).decode(errors="replace")

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, str | int]
    ) -> bytes:
        headers = HTTPHeaders({"Accept": "application/json, */*", "User-Agent": "nbray"})
        token = self._account / "token"  # it is renewed, so it is read each time
        if token.exists():
            headers["Authorization"] = f"Bearer {token.read_text().strip()}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        request = HTTPRequest(
            url, method, headers, None if body is None else json.dumps(body),
            connect_timeout=_CONNECT_S, request_timeout=_REQUEST_S, ssl_options=self._trust,
            allow_nonstandard_methods=True, decompress_response=True,
        )  # fmt: skip
        try:
            answer = await self._client.fetch(request)
        except HTTPClientError as error:
            if error.response is None or error.code == 599:
                raise ProviderError(
                    f"The API of Kubernetes at {self.server} does not answer: {error}"
                ) from error
            raise _refusal(error) from error
        except OSError as error:
            raise ProviderError(
                f"The API of Kubernetes at {self.server} does not answer: {error}"
            ) from error
        return bytes(answer.body)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


def _refusal(error: HTTPClientError) -> Refusal:
    assert error.response is not None
    said = bytes(error.response.body or b"")
    try:
        status = json.loads(said)
        return Refusal(error.code, str(status["reason"]), str(status["message"]))
    except (ValueError, KeyError, TypeError):
        words = said.decode(errors="replace")[:300].strip()
        return Refusal(error.code, "", words or f"HTTP {error.code}")
