"""How a connection comes to carry a tunnel, sans I/O: the proof of the token, then who knocks.

Neither side sends or keeps anything of worth before the other has proved the token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from nbray.wire.handshake import ClientHandshake, HandshakeError, ServerHandshake
from nbray.wire.tunnel_messages import (
    ENDPOINT,
    LONGEST,
    Farewell,
    Knock,
    Unpacker,
    Visit,
    Welcome,
    packed,
)

_VISIT = cast(type[Visit], Visit)


class Entering:
    """The driver's side: proves the token and says what it comes for.

    Attributes:
        has_said: whether it has said that.
    """

    def __init__(
        self, token: bytes, visit: Knock | Farewell, binding: Callable[[], bytes] = bytes
    ) -> None:
        self._handshake: ClientHandshake | None = ClientHandshake(token, lambda: ENDPOINT, binding)
        self._visit = visit
        self.has_said = False
        self._unpacker = Unpacker(16 * LONGEST)

    def feed(self, data: bytes) -> tuple[bytes, Welcome | None, bytes]:
        """What to send, the answer once it is there, and the bytes behind it.

        Raises:
            HandshakeError: it is no gateway of this cluster, or one of another nbray.
        """
        reply = b""
        if self._handshake is not None:
            reply, rest = self._handshake.feed(data)
            if reply:  # at once, which saves a round trip; it holds nothing secret
                reply += packed(self._visit)
                self.has_said = True
            if rest is None:
                return reply, None, b""
            self._handshake = None
            data = rest
        try:
            welcome, rest = self._unpacker.feed(data, Welcome)
        except ValueError as error:
            raise HandshakeError(f"the gateway answered with {error}") from error
        return reply, welcome, rest


class Admitting:
    """The gateway's side."""

    def __init__(self, token: bytes, binding: Callable[[], bytes] = bytes) -> None:
        self._handshake: ServerHandshake | None = ServerHandshake(token, ENDPOINT, binding)
        self._unpacker = Unpacker()
        self.hello = self._handshake.hello

    def feed(self, data: bytes) -> tuple[bytes, Visit | None, bytes]:
        """What to send, what is wanted once that is there, and the bytes behind it.

        Raises:
            HandshakeError: the peer does not know the token, or is another nbray.
        """
        reply = b""
        if self._handshake is not None:
            reply, rest = self._handshake.feed(data)
            if rest is None:
                return reply, None, b""
            self._handshake = None
            data = rest
        try:
            visit, rest = self._unpacker.feed(data, _VISIT)
        except ValueError as error:
            raise HandshakeError(f"the driver knocked with {error}") from error
        return reply, visit, rest
