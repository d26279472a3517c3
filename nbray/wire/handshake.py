"""The handshake: both sides prove that they have the cluster's token, sans I/O.

The server speaks first with a nonce; the client answers with its own nonce and an HMAC
over both; the server checks it in constant time and answers with its HMAC. All three
parts have fixed sizes, so nothing of an unknown peer is parsed beyond a comparison.

Both sides are fed with what arrives. They give back what to send, and the bytes that follow
the handshake once it is complete (None before).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct

PROTOCOL_VERSION = 1
_HELLO = struct.Struct("<4sH32s")
_MAGIC = b"NBRY"
_MAC_BYTES = 32


class HandshakeError(ConnectionError):
    """The peer is not a member of this cluster, or not an nbray process at all."""


def _mac(token: bytes, role: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    return hmac.new(token, role + server_nonce + client_nonce, hashlib.sha256).digest()


def _open_hello(data: bytes) -> bytes:
    magic, version, nonce = _HELLO.unpack(data[: _HELLO.size])
    if magic != _MAGIC:
        raise HandshakeError("the peer does not speak nbray's protocol")
    if version != PROTOCOL_VERSION:
        raise HandshakeError(
            f"the peer speaks protocol version {version}, this process {PROTOCOL_VERSION}: "
            "install the same nbray on both"
        )
    return bytes(nonce)


class ServerHandshake:
    """The accepting side. Send `hello` first, then `feed` until it answers."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._nonce = os.urandom(32)
        self._received = b""
        self.hello = _HELLO.pack(_MAGIC, PROTOCOL_VERSION, self._nonce)

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take received bytes: the proof to send and the bytes left over, once complete.

        Raises:
            HandshakeError: wrong token, wrong version or another protocol.
        """
        self._received += data
        if self._received[:4] != _MAGIC[: len(self._received)]:
            raise HandshakeError("the peer does not speak nbray's protocol")
        if len(self._received) < _HELLO.size + _MAC_BYTES:
            return b"", None
        client_nonce = _open_hello(self._received)
        end = _HELLO.size + _MAC_BYTES
        expected = _mac(self._token, b"client", self._nonce, client_nonce)
        if not hmac.compare_digest(expected, self._received[_HELLO.size : end]):
            raise HandshakeError("the peer has a wrong token")
        return _mac(self._token, b"server", self._nonce, client_nonce), self._received[end:]


class ClientHandshake:
    """The connecting side: answer the server's hello, then check its proof."""

    hello_bytes = _HELLO.size
    proof_bytes = _MAC_BYTES

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._nonce = os.urandom(32)
        self._server_nonce = b""
        self._received = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take received bytes: the answer to send, then the bytes left over, once complete.

        Raises:
            HandshakeError: wrong token, wrong version or another protocol.
        """
        self._received += data
        reply = b""
        if not self._server_nonce:
            if self._received[:4] != _MAGIC[: len(self._received)]:
                raise HandshakeError("the peer does not speak nbray's protocol")
            if len(self._received) < _HELLO.size:
                return b"", None
            reply = self.answer(self._received[: _HELLO.size])
            self._received = self._received[_HELLO.size :]
        if len(self._received) < _MAC_BYTES:
            return reply, None
        self.check(self._received[:_MAC_BYTES])
        return reply, self._received[_MAC_BYTES:]

    def answer(self, hello: bytes) -> bytes:
        """The reply to the server's hello."""
        self._server_nonce = _open_hello(hello)
        own = _HELLO.pack(_MAGIC, PROTOCOL_VERSION, self._nonce)
        return own + _mac(self._token, b"client", self._server_nonce, self._nonce)

    def check(self, proof: bytes) -> None:
        """Raises HandshakeError unless the server has the token too."""
        expected = _mac(self._token, b"server", self._server_nonce, self._nonce)
        if not hmac.compare_digest(expected, proof):
            raise HandshakeError("the server has a wrong token")
