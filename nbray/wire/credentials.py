"""TLS for the gRPC ports, out of the cluster's token: whoever has it is a member, on both sides.

The token gives the key of an authority that every member derives for itself and nobody sends. It
signs one certificate, with a key of its own, for the processes of a session folder. Servers and
clients show theirs and take in only what that authority has signed, so each side has proved that
it has the token before it is sent a byte, the proof cannot be passed on (it is bound to the
connection), and what a stranger sends ends in the TLS layer.

``cryptography`` takes 50 ms to import. So the launcher has the certificate made by a process of its
own (``python -m nbray.wire.credentials``) while the GCS or the raylet comes up, and these find it
in the session folder; who finds none makes one.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

from nbray.common.process import report_ready
from nbray.common.session import Session

logger = logging.getLogger(__name__)

NAME = "nbray"
IDENTITY_FILE = "identity.pem"
_INFO = b"nbray cluster authority"
_MOST_KNOWN = 16


@dataclass(frozen=True)
class Identity:
    """What a member shows (``key`` and ``certificate``) and whom it trusts; each as PEM."""

    authority: bytes
    certificate: bytes
    key: bytes

    def to_text(self) -> bytes:
        """The three, one after the other."""
        return self.authority + self.certificate + self.key

    @classmethod
    def from_text(cls, text: bytes) -> Identity:
        """What `to_text` wrote.

        Raises:
            ValueError: it is not that.
        """
        end = b"-----END CERTIFICATE-----\n"
        authority, first, rest = text.partition(end)
        certificate, second, key = rest.partition(end)
        if not first or not second or b"PRIVATE KEY" not in key:
            raise ValueError("it holds no two certificates and a key")
        return cls(authority + first, certificate + second, key)


_known: dict[bytes, Identity] = {}


def identity_of(token: bytes) -> Identity:
    """A member's identity; made once in a process, unless `read_identity` found one."""
    found = _known.get(token)
    return _remember(token, make_identity(token)) if found is None else found


def read_identity(session: Session) -> None:
    """Use the identity of a session folder in this process; make the file if there is none."""
    token = session.token
    try:
        _remember(token, Identity.from_text(session.read_secret(IDENTITY_FILE)))
    except FileNotFoundError:
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


def make_identity(token: bytes) -> Identity:
    """The authority of the token, and a new certificate signed by it."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    # 256 bits more than the order of the curve has, so that no key is likelier than another.
    secret = HKDF(hashes.SHA512(), 64, None, _INFO).derive(token)
    order = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
    authority_key = ec.derive_private_key(
        int.from_bytes(secret, "big") % (order - 1) + 1, ec.SECP256R1()
    )
    member_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nbray cluster")])
    member_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])

    def certificate(
        name: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name).issuer_name(authority_name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # Clusters end with their token; the clocks of their machines may differ.
            .not_valid_before(datetime.datetime(2000, 1, 1))
            .not_valid_after(datetime.datetime(9999, 12, 31))
            .add_extension(x509.BasicConstraints(authority, 0 if authority else None), True)
        )  # fmt: skip

    root = certificate(authority_name, authority_key, authority=True)
    leaf = certificate(member_name, member_key, authority=False).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(NAME)]), False
    )
    pem = serialization.Encoding.PEM
    return Identity(
        root.sign(authority_key, hashes.SHA256()).public_bytes(pem),
        leaf.sign(authority_key, hashes.SHA256()).public_bytes(pem),
        member_key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def main() -> None:
    """Put an identity into a session folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int)
    args = parser.parse_args()
    read_identity(Session(Path(args.session_dir)))
    report_ready(args.ready_fd, {})


if __name__ == "__main__":
    main()
