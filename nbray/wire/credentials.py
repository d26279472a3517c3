"""What this process shows and whom it trusts: TLS for the gRPC ports.

By default that is made out of the cluster's token (`nbray.wire.identity`): servers and clients show
theirs and take in only what the token's authority has signed, so each side has proved that it has
the token before it is sent a byte, the proof cannot be passed on (it is bound to the connection),
and what a stranger sends ends in the TLS layer.

A user's own certificates stand in its place, not beside it, since a side shows one. Their authority
may have signed those of others, too, so they do not stand for the token: that is proved in each
call and each answer, by a MAC of the caller's certificate, whose key TLS has just been shown. So
neither can be used over another connection, by whoever got hold of them. Python's gRPC tells
nothing that is nearer to the connection than this.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
from dataclasses import dataclass
from typing import TypeVar

from nbray.common.session import Session
from nbray.wire.identity import IDENTITY_FILE, NAME, Identity, make_identity
from nbray.wire.tls import AUTHORITY, FOLDER, OWN, SHARED_NAME, Tls, first_certificate

logger = logging.getLogger(__name__)

_MOST_KNOWN = 16
_T = TypeVar("_T")
_KEY = b"PRIVATE KEY-----"

_known: dict[bytes, Member] = {}
_sessions: dict[bytes, Session] = {}


@dataclass(frozen=True)
class Member:
    """A member of a cluster, as this process is one.

    Attributes:
        identity: what it shows, and whom it trusts.
        wires: "tls" or "plain": what the other sockets of its node speak; empty if it has no node.
        tls: the same identity for those sockets.
        shared_name: a name that is in the certificates of all nodes; empty: each has its own, and
            has to be reached by it. None: the token signs the certificates.
    """

    identity: Identity
    wires: str = ""
    tls: Tls | None = None
    shared_name: str | None = None

    @property
    def proves_token(self) -> bool:
        """Whether a certificate alone does not show that one has the token."""
        return self.shared_name is not None

    @property
    def target_name(self) -> str:
        """The name that a peer's certificate has to have; empty: where it was reached."""
        return NAME if self.shared_name is None else self.shared_name

    def proof(self, token: bytes, role: str) -> str:
        """What this process, as a caller, sends ("caller"), and is answered ("server")."""
        return proof(token, role, self.identity.certificate)


@functools.lru_cache(4096)
def proof(token: bytes, role: str, certificate: bytes) -> str:
    """The MAC of a caller's certificate (PEM), which each side of a call sends."""
    digest = hashlib.sha256(first_certificate(certificate)).digest()
    return hmac.digest(token, f"nbray gRPC, {role}".encode() + digest, "sha256").hex()


def member_of(token: bytes) -> Member:
    """Who this process is; made once, unless `read_identity` or `take_certificates` was called."""
    found = _known.get(token)
    if found is not None:
        return found
    session = _sessions.get(token)
    made = Member(make_identity(token)) if session is None else _of_node(token, session)
    return _remember(token, made)


def take_certificates(token: bytes, identity: Identity, tls: Tls, shared_name: str) -> None:
    """Use the user's certificates in this process, which belongs to no node."""
    _remember(token, Member(identity, "", tls, shared_name))


def read_identity(session: Session) -> None:
    """Use what a session folder has in this process.

    What the token's authority signs is made there by the first process that shows it: on a cluster
    of one machine, none does.
    """
    token = session.token
    tls = Tls.of(session.path)
    if tls is not None:
        try:
            shared = session.read_secret(f"{FOLDER}/{SHARED_NAME}").decode()
        except FileNotFoundError:
            shared = None
        chain, key = chain_and_key(session.read_secret(f"{FOLDER}/{OWN}"))
        identity = Identity(session.read_secret(f"{FOLDER}/{AUTHORITY}"), chain, key)
        _remember(token, Member(identity, "tls", tls, shared))
        return
    _known.pop(token, None)
    _keep(_sessions, token, session)


def _of_node(token: bytes, session: Session) -> Member:
    try:
        identity = Identity.from_text(session.read_secret(IDENTITY_FILE))
    except (FileNotFoundError, ValueError):
        identity = make_identity(token)
        try:
            session.write_secret(IDENTITY_FILE, identity.to_text())
        except OSError as error:  # the others make their own
            logger.warning("The identity of this node is not kept: %s", error)
    return Member(identity, "plain")


def chain_and_key(text: bytes) -> tuple[bytes, bytes]:
    """The certificates and the key of one text, in which the key may come first."""
    end = text.index(b"-----END ", text.index(_KEY))
    begin = text.rindex(b"-----BEGIN ", 0, end)
    end = text.index(b"-----", end + 9) + 5
    return text[:begin] + text[end:], text[begin:end] + b"\n"


def _remember(token: bytes, member: Member) -> Member:
    _keep(_known, token, member)
    return member


def _keep(known: dict[bytes, _T], token: bytes, value: _T) -> None:
    while len(known) >= _MOST_KNOWN and token not in known:
        del known[next(iter(known))]
    known[token] = value
