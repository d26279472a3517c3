"""The identities that this process shows: TLS for the gRPC ports, out of the cluster's token.

Servers and clients show theirs and take in only what the token's authority has signed, so each side
has proved that it has the token before it is sent a byte, the proof cannot be passed on (it is
bound to the connection), and what a stranger sends ends in the TLS layer.
"""

from __future__ import annotations

import logging

from nbray.common.session import Session
from nbray.wire.identity import IDENTITY_FILE, Identity, make_identity

logger = logging.getLogger(__name__)

_MOST_KNOWN = 16

_known: dict[bytes, Identity] = {}


def identity_of(token: bytes) -> Identity:
    """A member's identity; made once in a process, unless `read_identity` found one."""
    found = _known.get(token)
    return _remember(token, make_identity(token)) if found is None else found


def read_identity(session: Session) -> None:
    """Use the identity of a session folder in this process; make the file if it is not there."""
    token = session.token
    try:
        _remember(token, Identity.from_text(session.read_secret(IDENTITY_FILE)))
    except (FileNotFoundError, ValueError):
        made = identity_of(token)
        try:
            session.write_secret(IDENTITY_FILE, made.to_text())
        except OSError as error:  # the others make their own
            logger.warning("The identity of this node is not kept: %s", error)


def _remember(token: bytes, identity: Identity) -> Identity:
    while len(_known) >= _MOST_KNOWN:
        del _known[next(iter(_known))]
    _known[token] = identity
    return identity
