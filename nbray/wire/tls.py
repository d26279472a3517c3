"""TLS under the frame wire and the bulk wire: the same handshake and the same frames inside.

A node has TLS when its session folder has a folder `FOLDER` (see `nbray.launcher.tls`). In it is
what its sockets show, and whom they trust; both sides show a certificate. Unix sockets have none:
nobody listens there whom the kernel does not let in.

TLS does not replace the proof of the token (`nbray.wire.handshake`), which goes on inside: an
authority may have signed the certificates of others, too. The proof is bound to the TLS session by
`Tls.binding_of`, so that nobody who stands between with a good certificate can pass it on. It is
made of the client's Finished message, a MAC over all that was said in the handshake of TLS by a key
of this session alone, and of both certificates. The exporter of RFC 9266, which is the named way,
Python's ssl does not have; all its arguments hold for Finished of TLS 1.3, and nothing older, no
resumption and no renegotiation is spoken here.

`TlsStream` has no I/O, since three kinds of sockets need it: those of a reactor, those of asyncio,
whose half-open peers `nbray.wire.aio` counts itself, and those that block. Of OpenSSL's own sockets
each record would be two system calls, which are one here for many records.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from functools import cached_property
from pathlib import Path
from typing import Any

from nbray.wire.handshake import HandshakeError

FOLDER = "tls"
OWN = "own.pem"
AUTHORITY = "authority.pem"
SHARED_NAME = "shared_name"
"""A file that is there when the certificates are the user's; see `nbray.wire.credentials`."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_ROOM = 1 << 15
_LEAST_BUFFER = 1 << 16
_WRITTEN_AT_ONCE = 1 << 18
_HEARD_AT_ONCE = 1 << 18
_SPEAKS_PLAIN = (
    "the peer speaks without TLS, and this process with it: set NBRAY_USE_TLS=1 where each node of "
    "the cluster is started, or nowhere"
)
# What OpenSSL calls it when the first bytes of the peer are none of TLS.
_NO_TLS = (
    "WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG", "HTTPS_PROXY_REQUEST",
)  # fmt: skip
_ALERTS = {
    "UNKNOWN_CA": "is of an authority that it does not know: each node needs a certificate of the "
    "same authority (NBRAY_TLS_CA_CERT), or all of them the same token",
    "DECRYPT_ERROR": "is of another authority of the same name: each node needs the same token",
    "CERTIFICATE_EXPIRED": "has expired, as it says: renew it (`nbray tls init`), and start the "
    "node again",
    "CERTIFICATE_REQUIRED": "is missing: this process was started without NBRAY_TLS_SERVER_CERT",
}


class TlsError(HandshakeError):
    """TLS ended a connection; the text says whose certificate, and what to do."""


class Tls:
    """What the sockets of this process show, and whom they trust.

    Args:
        own: a chain of certificates, and their key.
        authority: the authorities of all nodes.
        key: the key, if it is a file of its own.
    """

    def __init__(self, own: Path, authority: Path, key: Path | None = None) -> None:
        self._files = own, key
        self._authority = authority

    @classmethod
    def of(cls, session: Path) -> Tls | None:
        """Of a session folder; None when its node has no TLS."""
        folder = session / FOLDER
        return cls(folder / OWN, folder / AUTHORITY) if folder.is_dir() else None

    @cached_property
    def _own(self) -> bytes:
        return first_certificate(self._files[0].read_bytes())

    @cached_property
    def client(self) -> ssl.SSLContext:
        """For an event loop that connects; `binding_of` tells what binds a proof to the session."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    @cached_property
    def server(self) -> ssl.SSLContext:
        """For an event loop that accepts."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # no session is resumed
        return context

    def _context(self, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # The token says who a member is, and is bound to the certificate, whatever names that has.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*self._files, password=str)  # it has none
        context.load_verify_locations(self._authority)
        return context

    def for_browsers(self) -> ssl.SSLContext:
        """Of a web server, which asks for no certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._files, password=str)
        return context

    def binding_of(self, session: ssl.SSLObject) -> bytes:
        """What both sides of a session know that is up, and no two sessions have in common."""
        finished = session.get_channel_binding("tls-unique")
        peer = session.getpeercert(binary_form=True)
        if finished is None or peer is None:
            raise TlsError("the handshake of TLS is not over")
        server, client = (self._own, peer) if session.server_side else (peer, self._own)
        return b"".join(hashlib.sha256(part).digest() for part in (finished, server, client))

    def accepting(self) -> TlsStream:
        """The side of a connection that was connected to."""
        return TlsStream(self.server, self, accepts=True)

    def connecting(self) -> TlsStream:
        """The side that connects."""
        return TlsStream(self.client, self, accepts=False)


class TlsStream:
    """One side of one TLS session: bytes of the network in, the peer's bytes out, and back.

    Attributes:
        is_up: whether both have shown who they are. In TLS 1.3 a client believes so before the
            server has looked at its certificate.
        ended: whether the peer has said that nothing follows.
    """

    def __init__(self, context: ssl.SSLContext, own: Tls, accepts: bool) -> None:
        self.is_up = False
        self.ended = False
        self._own = own
        self._early = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, accepts)

    def binding(self) -> bytes:
        """As `Tls.binding_of`.

        Raises:
            TlsError: the handshake of TLS is not over.
        """
        if not self.is_up:
            raise TlsError("the handshake of TLS is not over")
        return self._own.binding_of(self._tls)

    def peer_names(self) -> list[str]:
        """The DNS names in the peer's certificate."""
        found: Any = self._tls.getpeercert() or {}
        return [value for kind, value in found.get("subjectAltName", ()) if kind == "DNS"]

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes of the network have come.

        Raises:
            TlsError: the peer is none of ours; `take` has what it is to be told.
        """
        self._incoming.write(data)
        if not self.is_up:
            self.shake_hands()

    def shake_hands(self) -> None:
        """Do the next step; the connecting side does the first one."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise TlsError(explained(error)) from error
        self.is_up = True
        if self._early:
            self._tls.write(self._early)
            self._early = b""

    def read_into(self, view: memoryview) -> int:
        """What the peer said, as much as there is room for; 0: nothing more is there.

        Raises:
            TlsError: it was not the peer, or refuses this side.
        """
        if not self.is_up:
            return 0
        size, most = 0, len(view)
        read: Any = self._tls.read  # of ints, when there is a buffer
        try:
            while size < most:
                size += read(most - size, view[size:])
                if not self._incoming.pending and size < most:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise TlsError(explained(error)) from error
        return size

    def read(self) -> bytes:
        """All that the peer said; errors as for `read_into`."""
        parts = []
        room = memoryview(bytearray(_LEAST_BUFFER))
        while size := self.read_into(room):
            parts.append(bytes(room[:size]))
        return b"".join(parts)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Say that to the peer, once the handshake is over; `take` has what is to be sent."""
        if self.is_up:
            self._tls.write(data)
        else:
            self._early += bytes(data)

    def pending(self) -> bool:
        """Whether something was heard that was not read."""
        return bool(self._incoming.pending or self._tls.pending())

    def take(self) -> bytes:
        """What is to be sent to the network."""
        return self._outgoing.read() if self._outgoing.pending else b""


class TlsSocket:
    """A socket with TLS in it, as far as the frame and the bulk wire use one.

    It blocks or does not as the socket in it. Of `send`, what was raised BlockingIOError for is to
    be sent again, since it has been encrypted.
    """

    def __init__(self, sock: socket.socket, stream: TlsStream) -> None:
        self._sock = sock
        self._stream = stream
        self._unsent: memoryview = memoryview(b"")
        self._taken = 0
        self.fileno = sock.fileno
        self.setblocking = sock.setblocking
        self.setsockopt = sock.setsockopt
        self.settimeout = sock.settimeout
        self.getpeername = sock.getpeername
        self.shutdown = sock.shutdown
        self.close = sock.close
        self.binding = stream.binding

    def send(self, data: memoryview | bytes | bytearray, _flags: int = 0) -> int:
        """How many bytes of ``data`` were sent; of none, the handshake is begun."""
        if self._unsent:
            self._push()
        if self._taken:
            taken, self._taken = self._taken, 0
            return taken
        if not data:
            if not self._stream.is_up:
                self._stream.shake_hands()
        else:
            data = data[:_WRITTEN_AT_ONCE]
            self._stream.write(data)
        self._unsent = memoryview(self._stream.take())
        try:
            self._push()
        except BlockingIOError:
            self._taken = len(data)
            raise
        return len(data)

    def sendall(self, data: memoryview | bytes, _flags: int = 0) -> None:
        """Send all of it; for sockets that block."""
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def _push(self) -> None:
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """What the peer said; 0: it has ended the connection.

        With room for `_LEAST_BUFFER` and more, nothing is left over that a poller does not see.

        Raises:
            TlsError: the peer is none of ours. OSError: as of a socket.
        """
        view = memoryview(buffer)[: nbytes or None]
        stream = self._stream
        while True:
            if size := stream.read_into(view):
                return size
            if stream.ended or not self._hear(view, flags & socket.MSG_DONTWAIT):
                return 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As `recv_into`, of a few bytes."""
        data = bytearray(size)
        return bytes(data[: self.recv_into(data, 0, flags)])

    def pending(self) -> bool:
        """Whether something was heard that was not read."""
        return self._stream.pending()

    def _hear(self, view: memoryview, flags: int) -> int:
        """Take what the network has; 0: the connection has ended."""
        if len(view) >= _LEAST_BUFFER:  # what is encrypted is copied before it is decrypted there
            size = self._sock.recv_into(view[: min(len(view) - _ROOM, _HEARD_AT_ONCE)], 0, flags)
            data: Any = view[:size]
        else:
            data = self._sock.recv(_LEAST_BUFFER, flags)
            size = len(data)
        if size:
            try:
                self._stream.feed(data)
            finally:
                self._answer()
        return size

    def _answer(self) -> None:
        """Send what TLS itself has to say."""
        said = self._stream.take()
        if said:
            self._unsent = memoryview(bytes(self._unsent) + said)
            try:
                self._push()
            except BlockingIOError:
                return  # it goes before what is said next
            except OSError:
                return  # the next use of the socket shows it


def first_certificate(pem: bytes) -> bytes:
    """The first certificate of a chain, without its clothes."""
    begin = pem.index(_BEGIN)
    return ssl.PEM_cert_to_DER_cert(pem[begin : pem.index(_END, begin) + len(_END)].decode())


def explained(error: ssl.SSLError) -> str:
    """What is wrong, and what to do about it."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        if "expired" in why or "not yet valid" in why:
            return (
                f"the peer's certificate is refused ({why}): renew it there, or set the clocks "
                "right, and start that node again"
            )
        return (
            f"the peer's certificate is refused ({why}): each node needs one of the same authority "
            "(NBRAY_TLS_CA_CERT), or all of them the same token"
        )
    if reason in _NO_TLS:
        return _SPEAKS_PLAIN
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "the peer shows no certificate, as each member of the cluster does"
    for name, text in _ALERTS.items():
        if name in reason:
            return f"the peer refuses this process: its certificate {text}"
    return f"TLS ended the connection ({reason or error})"
