"""The handshake: both sides prove that they have the cluster's token, sans I/O.

The server speaks first with a nonce; the client answers with its own nonce and an HMAC
over both and over the address that it has dialled; the server checks it in constant time, with the
address at which it was reached, and answers with its HMAC. All three parts have fixed sizes, so
nothing of an unknown peer is parsed beyond a comparison.

Within TLS both proofs are also of what binds them to that session (see `nbray.wire.tls`).

The address keeps a proof where it belongs: who is dialled by a member and passes the handshake on
to another listener gets nowhere, since the member has proved itself for his address alone.

Each side also says what software it runs, as a part of what is proved: see
`nbray.common.software`. A peer that runs another is told from one with a wrong token.

Both sides are fed with what arrives. They give back what to send, and the bytes that follow
the handshake once it is complete (None before).
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import os
import struct
from collections.abc import Callable

from nbray.common.software import Software, own_software
from nbray.common.text import one_line

PROTOCOL_VERSION = 3
"""The version of this handshake; a hello has its magic, its version and its length in all."""

_HELLO = struct.Struct("<4sH2B10s4s16s")
_MAGIC = b"NBRY"
_TLS_RECORD = b"\x16\x03"
_NONCE_AT = _HELLO.size - 16
_MAC_BYTES = 32


class HandshakeError(ConnectionError):
    """The peer is not a member of this cluster, or not an nbray process at all."""


def _place(endpoint: object) -> bytes:
    """An address as both of its sides know it, whatever their sockets call it."""
    match endpoint:
        case (str(host), int(port), *_):
            address = ipaddress.ip_address(host.partition("%")[0])
            mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 peer of an IPv6 socket
            return f"{mapped or address} {port}".encode()
        case str():
            return os.fsencode(endpoint)
        case bytes():  # a Unix socket without a name in the file system
            return endpoint
    return b""


class _Proofs:
    """The proofs of one connection, made from all that was said before them."""

    def __init__(
        self, token: bytes, server: bytes, client: bytes, endpoint: object, binding: bytes
    ) -> None:
        self._token = token
        self._said = server + client + _place(endpoint) + binding

    def of(self, role: bytes) -> bytes:
        """What the side ``role`` sends."""
        return hmac.digest(self._token, b"nbray frames, " + role + self._said, "sha256")

    def check(self, role: bytes, proof: bytes) -> None:
        """Raises HandshakeError unless ``proof`` is what the side ``role`` sends."""
        if not hmac.compare_digest(self.of(role), proof):
            raise HandshakeError(
                f"the {role.decode()} has a wrong token, or was reached in another's place"
            )


def _check_beginning(said: bytes) -> None:
    """Raises HandshakeError if what a peer said first cannot be a hello."""
    if said[:4] == _MAGIC[: len(said)]:
        return
    if said[:2] == _TLS_RECORD[: len(said)]:
        raise HandshakeError(
            "the peer speaks TLS, and this process without: set NBRAY_USE_TLS=1 where each node of "
            "the cluster is started, or nowhere"
        )
    raise HandshakeError("the peer does not speak nbray's protocol")


def _check_hello(hello: bytes) -> None:
    if hello[:_NONCE_AT] == _hello_without_nonce():
        return
    magic, protocol, *python, version, messages, _nonce = _HELLO.unpack(hello)
    if magic != _MAGIC:
        raise HandshakeError("the peer does not speak nbray's protocol")
    if protocol != PROTOCOL_VERSION:
        raise HandshakeError(
            f"the peer speaks protocol version {protocol}, this process {PROTOCOL_VERSION}: "
            "install the same nbray on both"
        )
    text = one_line(version.rstrip(b"\0").decode(errors="replace"))
    other = Software(text, messages, (python[0], python[1]))
    raise HandshakeError(own_software().difference(other, "the peer"))


@functools.cache
def _hello_without_nonce() -> bytes:
    own = own_software()
    version = own.version.encode()[:10]
    return _HELLO.pack(
        _MAGIC, PROTOCOL_VERSION, *own.python, version, own.messages, b""
    )[:_NONCE_AT]  # fmt: skip


def _make_hello() -> bytes:
    return _hello_without_nonce() + os.urandom(_HELLO.size - _NONCE_AT)


class ServerHandshake:
    """The accepting side. Send `hello` first, then `feed` until it answers.

    Args:
        token: the cluster's secret.
        endpoint: where the peer has reached this side, as the accepted socket's ``getsockname``
            tells it.
        binding: tells what binds the proofs to the TLS session, when the peer has spoken.
    """

    def __init__(
        self, token: bytes, endpoint: object = None, binding: Callable[[], bytes] = bytes
    ) -> None:
        self._token = token
        self._endpoint = endpoint
        self._binding = binding
        self._received = b""
        self.hello = _make_hello()

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take received bytes: the proof to send and the bytes left over, once complete.

        Raises:
            HandshakeError: wrong token, wrong version, another protocol, or a proof for another
                address.
        """
        self._received += data
        _check_beginning(self._received)
        end = _HELLO.size + _MAC_BYTES
        if len(self._received) < end:
            return b"", None
        answered = self._received[: _HELLO.size]
        _check_hello(answered)
        proofs = _Proofs(self._token, self.hello, answered, self._endpoint, self._binding())
        proofs.check(b"client", self._received[_HELLO.size : end])
        return proofs.of(b"server"), self._received[end:]


class ClientHandshake:
    """The connecting side: answer the server's hello, then check its proof.

    Args:
        token: the cluster's secret.
        endpoint: tells whom this side has reached, as the socket's ``getpeername`` does; it is
            called when the server has spoken.
        binding: as of `ServerHandshake`.
    """

    hello_bytes = _HELLO.size
    proof_bytes = _MAC_BYTES

    def __init__(
        self,
        token: bytes,
        endpoint: Callable[[], object] | None = None,
        binding: Callable[[], bytes] = bytes,
    ) -> None:
        self._token = token
        self._endpoint = endpoint
        self._binding = binding
        self._proofs: _Proofs | None = None
        self._received = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take received bytes: the answer to send, then the bytes left over, once complete.

        Raises:
            HandshakeError: wrong token, wrong version, another protocol, or a proof for another
                address.
        """
        self._received += data
        reply = b""
        if self._proofs is None:
            _check_beginning(self._received)
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
        _check_hello(hello)
        own = _make_hello()
        self._proofs = _Proofs(self._token, hello, own, self._reached(), self._binding())
        return own + self._proofs.of(b"client")

    def _reached(self) -> object:
        try:
            return None if self._endpoint is None else self._endpoint()
        except OSError:  # the peer has gone again, which the next use of the socket shows
            return None

    def check(self, proof: bytes) -> None:
        """Raises HandshakeError unless the server has the token too, and was reached here."""
        assert self._proofs is not None
        self._proofs.check(b"server", proof)
