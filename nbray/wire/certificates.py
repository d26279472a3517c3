"""An authority for the nodes of one's clusters, and certificates that it signs: ``nbray tls init``.

A folder of the user has both: ``ca.crt`` and ``ca.key``, which never leaves it, and ``node.crt``
with ``node.key``, which nodes show. Every certificate has the name `NAME`, by which nodes know each
other whatever their addresses are, and the names of hosts for browsers that look at the dashboard.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbray.wire.identity import NAME

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_DAYS = 3650
_SLACK = datetime.timedelta(days=1)  # clocks of machines differ


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> None:
        """Keep them as ``name.crt`` and ``name.key``, each in one step, the key for oneself.

        Raises:
            OSError: the folder cannot be written to.
        """
        for suffix, data, mode in (("key", self.key, 0o600), ("crt", self.certificate, 0o644)):
            new = folder / f".{name}.{suffix}.{os.getpid()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(new, flags, mode), "wb") as file:
                file.write(data)
            new.rename(folder / f"{name}.{suffix}")


class Authority:
    """Who signs the certificates of nodes.

    Args:
        pair: its own certificate and key.

    Raises:
        ValueError: they cannot be read.
    """

    def __init__(self, pair: Pair) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        self.pair = pair
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        self._key = serialization.load_pem_private_key(pair.key, None)

    @classmethod
    def new(cls, days: int = AUTHORITY_DAYS) -> Authority:
        """A new one."""
        # Two of one name would be told apart only by a signature that is wrong.
        key, name = _new_key(), _name(f"nbray authority {secrets.token_hex(4)}")
        return cls(_signed(_builder(name, name, key, days, is_authority=True), key, key))

    @classmethod
    def of(cls, folder: Path) -> Authority:
        """The one of a folder, made when there is none.

        Raises:
            OSError: it cannot be read, or made. ValueError: it is damaged.
        """
        if (folder / "ca.crt").exists() or (folder / "ca.key").exists():
            files = folder / "ca.crt", folder / "ca.key"
            return cls(Pair(files[0].read_bytes(), files[1].read_bytes()))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = cls.new()
        made.pair.write(folder, "ca")
        return made

    def sign(self, hosts: Iterable[str], days: float) -> Pair:
        """A certificate for nodes, and its key.

        Args:
            hosts: names and addresses by which browsers reach one.
            days: how long it holds.

        Raises:
            ValueError: something is no name of a host.
        """
        from cryptography import x509

        key = _new_key()
        builder = _builder(_name(NAME), self._certificate.subject, key, days, is_authority=False)
        names = [_general_name(host) for host in dict.fromkeys((NAME, *hosts))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        return _signed(builder, key, self._key)  # type: ignore[arg-type]


def days_left(certificate: bytes) -> float:
    """For how long a certificate, PEM, still holds; less than 0: it has expired.

    Raises:
        ValueError: it is none.
    """
    from cryptography import x509

    end = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return (end - datetime.datetime.now(datetime.UTC)) / datetime.timedelta(days=1)


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    bare = host.strip("[]")
    try:
        return x509.IPAddress(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if not bare.isascii() or not bare.replace("-", "").replace(".", "").replace("*", "").isalnum():
        raise ValueError(f"{host!r} is neither the name of a host nor an address.")
    return x509.DNSName(bare)


def _builder(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float,
    *, is_authority: bool,
) -> x509.CertificateBuilder:  # fmt: skip
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), True)
    )  # fmt: skip


def _signed(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    authority: ec.EllipticCurvePrivateKey,
) -> Pair:
    from cryptography.hazmat.primitives import hashes, serialization

    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(builder.sign(authority, hashes.SHA256()).public_bytes(pem), private)
