"""The way into the dashboard, for browsers and for programs; the token is never sent.

A key is ``EXPIRES.NONCE.MAC``: until when it holds (milliseconds), a random text, and an HMAC by
the cluster's token of both and of the purpose, which names the cluster and the port. Whoever has
the token can make one; from a key nobody learns the token. A login link holds for minutes and once;
the dashboard changes it into a cookie, a random text that it alone knows. A program that has the
token signs what it asks for by such a key, and the dashboard signs its answer, so that nobody who
listens on its port in its stead is believed or gets anything that could be used.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import secrets
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

LOGIN = "login"
REQUEST = "request"
ANSWER = "answer"
LOGIN_S = 600.0
REQUEST_S = 60.0
REQUEST_HEADER = "Nbray-Request"
BODY_HEADER = "Nbray-Body"
ANSWER_HEADER = "Nbray-Answer"
SIGNED_HEADERS = (
    "Content-Type", "Cache-Control", "Content-Security-Policy", "Etag", "Last-Modified", "Location",
)  # fmt: skip
_HTTPS = "https://"
_PROBE_S = 3.0
_LARGEST_PROBE = 1 << 16


class NotProvedError(ConnectionError):
    """What answers at a dashboard's address is not that dashboard."""


def make_key(token: bytes, purpose: str, now: float, lifetime_s: float) -> str:
    """A key for a purpose; ``now`` in seconds since the epoch."""
    body = f"{int((now + lifetime_s) * 1000)}.{secrets.token_urlsafe(16)}"
    return f"{body}.{_mac(token, purpose, body)}"


def check_key(token: bytes, purpose: str, key: str, now: float) -> bool:
    """Whether a key is genuine and still holds."""
    body, _, mac = key.rpartition(".")
    genuine = hmac.compare_digest(mac.encode(), _mac(token, purpose, body).encode())
    return genuine and key_expires(key) > now


def key_expires(key: str) -> float:
    """Until when a genuine key holds."""
    return float(key.partition(".")[0]) / 1000


def api_key(token: bytes) -> str:
    """What a program may send instead of the token, to read from the dashboard and no more."""
    return _mac(token, "api", "")


def _mac(token: bytes, purpose: str, body: str) -> str:
    message = f"nbray dashboard {purpose} {body}".encode()
    return hmac.new(token, message, hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Dashboard:
    """The dashboard of a cluster, as its members know it.

    Attributes:
        url: where it is, as "host:port", or "https://host:port" with TLS.
        cluster: the name of its cluster, which no other has: the head's session folder.
        token: the cluster's secret.
        own_port: on which it listens itself, where ``url`` is a way to it.
        session: the folder of a node of this machine, which has what it trusts.
    """

    url: str
    cluster: str
    token: bytes = field(repr=False)
    own_port: int = 0
    session: Path | None = field(default=None, repr=False, compare=False)

    @property
    def place(self) -> str:
        """Where it is, as "host:port"."""
        return self.url.removeprefix(_HTTPS)

    @property
    def base(self) -> str:
        """Where it is, with the scheme."""
        return self.url if self.has_tls else f"http://{self.url}"

    @property
    def has_tls(self) -> bool:
        """Whether it speaks HTTPS."""
        return self.url.startswith(_HTTPS)

    @property
    def port(self) -> int:
        """Its port."""
        return self.own_port or int(self.url.rpartition(":")[2])

    def trust(self) -> ssl.SSLContext:
        """What a member trusts there; the name does not count, since answers are sealed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.authority())
        return context

    def authority(self) -> str:
        """The certificate that it is to be known by, of one with TLS."""
        from nbray.common.session import Session
        from nbray.wire.credentials import member_of, read_identity  # with TLS only

        if self.session is not None:
            read_identity(Session(self.session))
        return member_of(self.token).identity.authority.decode()

    def purpose(self, *parts: str) -> str:
        """Of a key for this dashboard alone."""
        return json.dumps([*parts, self.cluster, self.port])

    def login_link(self, now: float) -> str:
        """The link that logs one browser in."""
        key = make_key(self.token, self.purpose(LOGIN), now, LOGIN_S)
        return f"{self.base}/login?key={key}"

    def signed(self, method: str, target: str, now: float, body: str = "") -> dict[str, str]:
        """The headers that let one request in.

        Args:
            method: GET or another.
            target: its path with the query.
            now: in seconds since the epoch.
            body: the SHA-256 of its body, in hexadecimal digits; nothing if it has none.
        """
        purpose = self.purpose(REQUEST, method, target, body)
        headers = {REQUEST_HEADER: make_key(self.token, purpose, now, REQUEST_S)}
        return headers | {BODY_HEADER: body} if body else headers

    def seal(self, key: str, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> str:
        """What shows that this dashboard and nobody else answers the request signed by ``key``."""
        named = {name.title(): value for name, value in headers}
        head = [[name, named[name]] for name in SIGNED_HEADERS if name in named]
        digest = hashlib.sha256(body).hexdigest()
        return _mac(self.token, self.purpose(ANSWER, key, str(status)), json.dumps([head, digest]))

    def check_answer(
        self, asked: Mapping[str, str], status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Raises NotProvedError unless this dashboard answers the request that had ``asked``."""
        seal = self.seal(asked[REQUEST_HEADER], status, headers.items(), body)
        if not hmac.compare_digest(seal.encode(), headers.get(ANSWER_HEADER, "").encode()):
            raise NotProvedError(
                f"what listens at {self.url} is not this cluster's dashboard, which may have ended"
            )

    def ask(self, method: str, target: str) -> tuple[int, bytes]:
        """Status and body of an answer, which is this dashboard's own.

        Raises:
            NotProvedError: it is not. OSError: nothing answers in time, or too much comes.
        """
        asked = self.signed(method, target, time.time())
        head = {"Host": self.place, "Connection": "close", "Content-Length": "0", **asked}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {head[name]}" for name in head)]
        trust = self.trust() if self.has_tls else None
        said = _converse(self.place, ("\r\n".join(lines) + "\r\n\r\n").encode(), trust)
        status, headers, body = _parse(said)
        self.check_answer(asked, status, headers, body)
        return status, body

    def _is_awaited(self) -> bool:
        """Whether it has still to be started, which who looks for trouble need not do."""
        from nbray.common.session import Session

        if self.session is None:
            return False
        try:
            info = Session(self.session).read_info()
        except (OSError, ValueError):
            return False
        return bool(info["dashboard"]) and len(info["pids"]) == 2  # GCS and raylet

    def probe(self) -> str:
        """Why it does not serve; empty when it does, or will when somebody comes."""
        if self._is_awaited():
            return ""
        try:
            status, body = self.ask("GET", "/api/version")
            json.loads(body)
        except NotProvedError as error:
            return str(error)
        except (OSError, ValueError) as error:
            return f"it does not answer ({error})"
        return "" if status == 200 else f"it answers {status}"


def serving(session: Path, url: str) -> ssl.SSLContext | None:
    """What a dashboard shows to browsers; None if it is to speak HTTP.

    Args:
        session: the folder of its node.
        url: where it is, as `Dashboard.url`.
    """
    if not url.startswith(_HTTPS):
        return None
    from nbray.wire.tls import Tls

    tls = Tls.of(session)
    if tls is None:
        raise ValueError(f"{session} has no certificate for {url}")
    return tls.for_browsers()


def _converse(place: str, request: bytes, trust: ssl.SSLContext | None) -> bytes:
    """All that is said in answer, within a time and a size, whoever is there."""
    host, _, port = place.rpartition(":")
    until = time.monotonic() + _PROBE_S
    said = b""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(
            socket.create_connection((host.strip("[]"), int(port)), _PROBE_S)
        )
        if trust is not None:
            sock = stack.enter_context(trust.wrap_socket(sock))
        sock.sendall(request)
        while part := sock.recv(65536):
            said += part
            left = until - time.monotonic()
            if left <= 0 or len(said) > _LARGEST_PROBE:
                raise OSError("what is there says too much")
            sock.settimeout(left)
    return said


def _parse(said: bytes) -> tuple[int, dict[str, str], bytes]:
    from http.client import HTTPException, HTTPResponse

    class Heard:
        """What was said, as a socket gives it."""

        def makefile(self, *_args: Any) -> io.BytesIO:
            return io.BytesIO(said)

    response = HTTPResponse(cast(socket.socket, Heard()))
    try:
        response.begin()
        body = response.read()
    except HTTPException as error:
        raise OSError("what is there does not speak HTTP") from error
    headers = {name.title(): value for name, value in response.getheaders()}
    return response.status, headers, body
