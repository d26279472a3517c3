"""What a member shows in TLS: made from the token, beside the start of the first process."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nbray.common.session import Session
from nbray.wire import credentials, identity
from nbray.wire.identity import IDENTITY_FILE, Identity, make_identity

TOKEN = b"a token of 32 characters, or more"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A session folder with a token; this process knows no identity yet."""
    monkeypatch.setattr(credentials, "_known", {})
    (tmp_path / "token").write_bytes(TOKEN)
    return tmp_path


def test_the_launcher_has_it_made_by_a_program_that_imports_nothing_of_nbray(
    folder: Path,
) -> None:
    program = (
        "import runpy, sys; sys.argv = ['identity', sys.argv[2]]\n"
        f"runpy.run_path({identity.__file__!r}, run_name='__main__')\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('nbray', 'grpc')])"
    )
    command = [sys.executable, "-P", "-c", program, "-", str(folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
    made = folder / IDENTITY_FILE
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert not list(folder.glob(".*")), "it is written in one step"
    credentials.read_identity(Session(folder))
    assert credentials.member_of(TOKEN).identity == Identity.from_text(made.read_bytes())


@pytest.mark.parametrize("damaged", [None, b"", b"-----BEGIN", b"\xff" * 5000])
def test_one_that_is_missing_or_damaged_is_made_anew(folder: Path, damaged: bytes | None) -> None:
    if damaged is not None:
        (folder / IDENTITY_FILE).write_bytes(damaged)
    credentials.read_identity(Session(folder))
    made = credentials.member_of(TOKEN).identity
    assert Identity.from_text((folder / IDENTITY_FILE).read_bytes()) == made


def test_the_authority_is_of_the_token_alone() -> None:
    def key(token: bytes) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        authority = x509.load_pem_x509_certificate(make_identity(token).authority)
        return authority.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    assert key(TOKEN) == key(TOKEN) != key(TOKEN + b"x")
    assert make_identity(TOKEN).key != make_identity(TOKEN).key
