"""TLS as the user wants it: read from the environment, checked, and kept in a session folder.

``NBRAY_USE_TLS=1`` gives a node TLS on all its TCP sockets. Without certificates it shows what the
token signs (`nbray.wire.identity`), which needs nothing else; with ``NBRAY_TLS_SERVER_CERT``,
``NBRAY_TLS_SERVER_KEY`` and ``NBRAY_TLS_CA_CERT`` it shows the user's. They are checked here, since
a start can say what is wrong with them, and kept in the session folder, so that the programs that
join there need no variables.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nbray.common.session import Session
from nbray.wire.certificates import days_left
from nbray.wire.credentials import chain_and_key, take_certificates
from nbray.wire.identity import IDENTITY_FILE, NAME, Identity, make_identity
from nbray.wire.tls import AUTHORITY, FOLDER, OWN, SHARED_NAME, Tls, TlsError

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")
_WARNED_DAYS = 30
_FILES = ("TLS_SERVER_CERT", "TLS_SERVER_KEY", "TLS_CA_CERT")


@dataclass(frozen=True)
class TlsFiles:
    """The user's certificates: a chain, its key, and the authorities of all nodes."""

    certificate: Path
    key: Path
    authority: Path

    def read(self) -> Identity:
        """What is in them.

        Raises:
            OSError: one cannot be read. ValueError: there is no key.
        """
        names = dict(zip(_FILES, (self.certificate, self.key, self.authority), strict=True))
        for name, path in names.items():
            if not os.access(path, os.R_OK) or path.is_dir():
                raise OSError(f"NBRAY_{name}={path} cannot be read: is it there, and yours?")
        text = self.certificate.read_bytes()
        if self.key != self.certificate:
            text += self.key.read_bytes()
        try:
            return Identity(self.authority.read_bytes(), *chain_and_key(text))
        except ValueError:
            raise ValueError(
                f"NBRAY_TLS_SERVER_KEY={self.key} holds no private key in PEM."
            ) from None

    @property
    def tls(self) -> Tls:
        """Sockets with them."""
        return Tls(self.certificate, self.authority, self.key)

    def check(self) -> str:
        """Have two sides with these certificates meet; gives the name that all nodes have, if any.

        Raises:
            ValueError: they do not take each other in.
        """
        try:
            sides = self.tls.connecting(), self.tls.accepting()
            sides[0].shake_hands()
            while not all(side.is_up for side in sides):
                for one, other in (sides, sides[::-1]):
                    other.feed(one.take())
        except TlsError as error:
            cause = error.__cause__
            why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else error
            raise ValueError(
                f"The certificate {self.certificate} (NBRAY_TLS_SERVER_CERT) cannot be used with "
                f"{self.authority} (NBRAY_TLS_CA_CERT): {why}. Renew it, or set the clock right, "
                "or name the authority that signed it: `nbray tls init` makes new ones."
            ) from None
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ValueError(
                f"The certificate {self.certificate} (NBRAY_TLS_SERVER_CERT), the key {self.key} "
                f"(NBRAY_TLS_SERVER_KEY, without a password) and {self.authority} "
                f"(NBRAY_TLS_CA_CERT), all in PEM, do not belong together: {reason}."
            ) from None
        return NAME if NAME in sides[0].peer_names() else ""


@dataclass(frozen=True)
class TlsOptions:
    """What the user wants: TLS or none, and with which certificates; None: those of the token."""

    use: bool = False
    files: TlsFiles | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> TlsOptions:
        """What ``NBRAY_USE_TLS`` and the others say, and Ray's where these say nothing.

        Raises:
            ValueError: they contradict each other.
        """
        use = _variable(variables, "USE_TLS").lower()
        if use not in (*_TRUE, *_FALSE):
            raise ValueError(f"NBRAY_USE_TLS is 1 or 0, not {use!r}.")
        if use in _FALSE:
            return cls()
        paths = [_variable(variables, name) for name in _FILES]
        if not any(paths):
            return cls(True)
        missing = [name for name, path in zip(_FILES, paths, strict=True) if not path]
        if missing:
            raise ValueError(
                f"NBRAY_{' and NBRAY_'.join(missing)} must be set, too: certificates are a "
                "certificate, its key and the authority of all nodes. Without any of them "
                "NBRAY_USE_TLS=1 uses certificates that the cluster's token signs."
            )
        return cls(True, TlsFiles(*(Path(path).expanduser() for path in paths)))

    def use_here(self, token: bytes) -> None:
        """Have this process, which belongs to no node, show the user's certificates, if any.

        Raises:
            ValueError: a certificate cannot be used. OSError: a file cannot be read.
        """
        if self.files is not None:
            identity = self.files.read()
            take_certificates(token, identity, self.files.tls, self.files.check())

    def prepare(self, session: Session) -> None:
        """Give the processes of a session folder what they show.

        Raises:
            ValueError: a certificate cannot be used; the text says which, and why.
            OSError: a file cannot be read, or the folder not be written.
        """
        folder = session.path / FOLDER
        if not self.use:
            for file in folder.glob("*"):  # of a head that comes back, and had it
                file.unlink()
            if folder.exists():
                folder.rmdir()
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.files is None:
            identity = make_identity(session.token)
            session.write_secret(IDENTITY_FILE, identity.to_text())
            (folder / SHARED_NAME).unlink(missing_ok=True)
        else:
            identity = self.files.read()
            session.write_secret(f"{FOLDER}/{SHARED_NAME}", self.files.check().encode())
        session.write_secret(f"{FOLDER}/{OWN}", identity.certificate + identity.key)
        session.write_secret(f"{FOLDER}/{AUTHORITY}", identity.authority)


def ends_soon(session: Session) -> str:
    """A sentence, if the certificate that a node shows holds for a month at most; else empty.

    Connections that are there go on without it; no new one is made.
    """
    try:
        left = days_left((session.path / FOLDER / OWN).read_bytes())
    except (OSError, ValueError):  # it has no TLS, or is being made
        return ""
    if left > _WARNED_DAYS:
        return ""
    when = f"holds for {left:.1f} days more" if left > 0 else "has expired"
    return (
        f"The certificate of the node here {when}: without one, no new connection is made. Renew "
        "it, and start the node again (`nbray up --restart-only`)."
    )


def _variable(variables: Mapping[str, str], name: str) -> str:
    return variables.get(f"NBRAY_{name}", variables.get(f"RAY_{name}", "")).strip()
