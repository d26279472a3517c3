"""TLS of an event loop, for wires whose bytes need nothing but to be carried."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from nbray.wire.tls import Tls, TlsError, explained


def accepting_with(tls: Tls | None, limit_s: float) -> dict[str, Any]:
    """Arguments of ``create_server``; a peer has ``limit_s`` for the handshake of TLS."""
    return {} if tls is None else {"ssl": tls.server, "ssl_handshake_timeout": limit_s}


def connecting_with(tls: Tls | None, limit_s: float) -> dict[str, Any]:
    """Arguments of ``create_connection``."""
    if tls is None:
        return {}
    return {"ssl": tls.client, "ssl_handshake_timeout": limit_s, "server_hostname": ""}


def binding_in(tls: Tls | None, transport: asyncio.BaseTransport) -> Callable[[], bytes]:
    """What binds proofs to the session of a transport; without TLS, nothing."""
    session = transport.get_extra_info("ssl_object")
    return bytes if tls is None or session is None else partial(tls.binding_of, session)


def in_words(error: Exception) -> Exception:
    """The same error; of TLS, with what to do."""
    return TlsError(explained(error)) if isinstance(error, ssl.SSLError) else error
