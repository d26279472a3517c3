"""What a member of a cluster shows in TLS, made from the token: also a program of its own.

The token gives the key of an authority that every member derives for itself and nobody sends. It
signs a certificate for a key that is made here.

``cryptography`` takes 50 ms to import, and a process of the cluster has no time for that when it
joins. So the launcher has this file run by itself beside it, and it imports nothing of nbray, which
would take longer. A head makes it when the first of another machine comes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

NAME = "nbray"
IDENTITY_FILE = "identity.pem"
_INFO = b"nbray cluster authority"
# The order of the curve P-256.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


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


def make_identity(token: bytes) -> Identity:
    """The authority of the token, and a new certificate signed by it."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    # 256 bits more than the order of the curve has, so that no key is likelier than another.
    secret = HKDF(hashes.SHA512(), 64, None, _INFO).derive(token)
    authority_key = ec.derive_private_key(
        int.from_bytes(secret, "big") % (_ORDER - 1) + 1, ec.SECP256R1()
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


def main(folder: Path) -> None:
    """Put an identity into a session folder, in one step, for its user alone."""
    text = make_identity((folder / "token").read_bytes()).to_text()
    new = folder / f".{IDENTITY_FILE}.{os.getpid()}"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text)
    new.rename(folder / IDENTITY_FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
