"""The way into the dashboard: a link that logs a browser in, without the token in its URL.

A key is ``EXPIRES.NONCE.MAC``: until when it holds, a random text, and an HMAC by the cluster's
token of both and of the purpose. Whoever has the token can make one; from a key nobody learns the
token. A login key holds for minutes and once; the dashboard changes it into a cookie, which is
such a key of another purpose.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import urllib.error
import urllib.request

LOGIN = "login"
SESSION = "session"
LOGIN_S = 600.0
SESSION_S = 12 * 3600.0
_PROBE_S = 3.0


def cookie_name(port: int) -> str:
    """Of the dashboard at that port: cookies of one host are shared by all ports."""
    return f"nbray-dashboard-{port}"


def make_key(token: bytes, purpose: str, now: float, lifetime_s: float) -> str:
    """A key for a purpose; ``now`` in seconds since the epoch."""
    body = f"{int(now + lifetime_s)}.{secrets.token_urlsafe(16)}"
    return f"{body}.{_mac(token, purpose, body)}"


def check_key(token: bytes, purpose: str, key: str, now: float) -> bool:
    """Whether a key is genuine and still holds."""
    body, _, mac = key.rpartition(".")
    genuine = hmac.compare_digest(mac.encode(), _mac(token, purpose, body).encode())
    return genuine and key_expires(key) > now


def key_expires(key: str) -> float:
    """Until when a genuine key holds."""
    return float(key.partition(".")[0])


def _mac(token: bytes, purpose: str, body: str) -> str:
    message = f"nbray dashboard {purpose} {body}".encode()
    return hmac.new(token, message, hashlib.sha256).hexdigest()


def login_link(url: str, token: bytes, now: float) -> str:
    """The link that logs a browser in, for the dashboard at ``url`` ("host:port")."""
    return f"http://{url}/login?key={make_key(token, LOGIN, now, LOGIN_S)}"


def probe(url: str, token: bytes) -> str:
    """Why the dashboard at ``url`` does not serve; empty when it does."""
    request = urllib.request.Request(
        f"http://{url}/api/version", headers={"Authorization": f"Bearer {token.hex()}"}
    )
    # No proxy of the environment stands between a cluster and its own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_PROBE_S) as reply:
            json.load(reply)
    except urllib.error.HTTPError as error:
        return f"it answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"it does not answer ({getattr(error, 'reason', error)})"
    return ""
