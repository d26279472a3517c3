"""Unpacks a package in a process of its own: ``python -I -S unzip.py ZIP FOLDER BYTES FILES``.

What is in a .zip file may be a thousand times its size, and its table of contents larger than any
memory, so neither is the raylet's matter. This file uses the standard library only: the process
starts in some milliseconds, without nbray. It writes why it failed to stderr.
"""

from __future__ import annotations

import lzma
import os
import resource
import shutil
import sys
import tarfile
import zipfile
import zlib

_COPIED_AT_ONCE = 1 << 20
_MOST_MEMORY = 2 << 30
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, RuntimeError,
    NotImplementedError, ValueError,
)  # fmt: skip


class UnpackError(Exception):
    """The package cannot be unpacked; the text says why."""


def unpack(package: str, folder: str, most_bytes: int, most_files: int) -> int:
    """Write the files of a package into a new folder, complete or not at all; returns their size.

    Args:
        package: the .zip file.
        folder: the new folder.
        most_bytes: what the files may have together.
        most_files: how many there may be.

    Raises:
        UnpackError: it is no package or too large, or a file would lie outside of the folder.
        OSError: it cannot be written.
    """
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    try:
        if not zipfile.is_zipfile(package) and tarfile.is_tarfile(package):
            size = _untar(package, partial, most_bytes, most_files)
        else:
            with zipfile.ZipFile(package) as archive:
                size = _write_all(archive, partial, most_bytes, most_files)
        os.rename(partial, folder)
    except _DAMAGED as error:
        raise UnpackError(f"A package is damaged: {error}") from error
    except MemoryError as error:
        raise UnpackError("A package has a table of contents that no memory holds.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return size


def _write_all(archive: zipfile.ZipFile, partial: str, most_bytes: int, most_files: int) -> int:
    entries = archive.infolist()
    if len(entries) > most_files:
        raise UnpackError(f"A package has {len(entries):,} files; at most {most_files:,} may be.")
    root = os.path.realpath(partial)
    size = 0
    for entry in entries:
        target = os.path.realpath(os.path.join(partial, entry.filename))
        if not (target + "/").startswith(root + "/"):
            raise UnpackError(f"A package has a file outside of itself: {entry.filename!r}")
        if entry.is_dir():
            os.makedirs(target, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with archive.open(entry) as source, open(target, "wb") as file:
            while part := source.read(_COPIED_AT_ONCE):
                size += len(part)  # counted, since what the table says may be wrong
                if size > most_bytes:
                    raise UnpackError(
                        f"The files of a package have more than {most_bytes:,} bytes, which is the "
                        "most that is unpacked."
                    )
                file.write(part)
        mode = entry.external_attr >> 16 & 0o777
        if mode:
            os.chmod(target, mode | 0o600)
    return size


def _untar(package: str, partial: str, most_bytes: int, most_files: int) -> int:
    """The same of a .tar file, packed or not; links, devices and owners are left out."""
    root = os.path.realpath(partial)
    size = 0
    with tarfile.open(package) as archive:
        for number, entry in enumerate(archive):
            if number >= most_files:
                raise UnpackError(f"A package has more than {most_files:,} files.")
            target = os.path.realpath(os.path.join(partial, entry.name))
            if not (target + "/").startswith(root + "/"):
                raise UnpackError(f"A package has a file outside of itself: {entry.name!r}")
            if entry.isdir():
                os.makedirs(target, exist_ok=True)
            source = archive.extractfile(entry) if entry.isfile() else None
            if source is None:
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with source, open(target, "wb") as file:
                while part := source.read(_COPIED_AT_ONCE):
                    size += len(part)
                    if size > most_bytes:
                        raise UnpackError(
                            f"The files of a package have more than {most_bytes:,} bytes, which is "
                            "the most that is unpacked."
                        )
                    file.write(part)
            os.chmod(target, entry.mode & 0o777 | 0o600)
    return size


def main() -> None:
    """See the head of this file."""
    package, folder, most_bytes, most_files = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    try:
        print(unpack(package, folder, int(most_bytes), int(most_files)))
    except (UnpackError, OSError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
