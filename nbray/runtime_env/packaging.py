"""Folders as packages: packed by content, kept in the GCS's key-value space, unpacked on a node.

A package is a .zip whose name is the hash of what is in it, so that the same files are sent once,
whoever sends them, and unpacked once per node. It travels in parts, which a GCS stores well.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nbray.runtime_env.folders import MOST_FILES, Look, PackageError, files_of
from nbray.runtime_env.spec import URI_PREFIX

MAX_BYTES = 500 << 20
MOST_UNPACKED_BYTES = 5 << 30
_SHOWN = 1000
PART_BYTES = 4 << 20
MOST_HOOK_BYTES = 95 << 20  # as a function of a task
_BLOCK = 1 << 20
_UNZIP = Path(__file__).with_name("unzip.py")
_EARLIEST = (1980, 1, 1, 0, 0, 0)


def pack(
    path: Path, excludes: Sequence[str], keep_name: bool, look: Look | None = None
) -> tuple[str, bytes]:
    """A folder or file as a package, as `write_package` makes it: its URI and its bytes.

    Raises:
        PackageError: the files are too large together, too many, or one cannot be packed.
    """
    buffer = io.BytesIO()
    uri = write_package(path, excludes, keep_name, buffer, look)
    return uri, buffer.getvalue()


def write_package(
    path: Path, excludes: Sequence[str], keep_name: bool, target: IO[bytes],
    look: Look | None = None,
) -> str:  # fmt: skip
    """Write a folder or file as a package; its URI. None of it is in memory as a whole.

    Args:
        path: a folder, .py file, .whl or .zip file.
        excludes: patterns as in .gitignore, beside those of the folder's own .gitignore files.
        keep_name: put the folder itself into the package, so that it can be imported by name.
        target: a file, empty, in which one may go back.
        look: gets all that was looked at.

    Raises:
        PackageError: the files are too large together, too many, or one cannot be packed.
    """
    import zipfile  # few programs pack anything

    look = look or Look()
    digest = hashlib.sha256()
    if path.suffix in (".zip", ".whl") and path.is_file():
        look.note(path)
        size = path.stat().st_size
        _check_size(size, path)
        _check_contents(path)
        _copy(path, size, target, digest)
        return f"{URI_PREFIX}{digest.hexdigest()}.zip"
    total = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, (file, name) in enumerate(files_of(path, excludes, keep_name, look)):
            _check_name(name)
            _check_count(number + 1, path)
            found = file.stat()
            total += found.st_size
            _check_size(total, path)
            info = zipfile.ZipInfo(name, _EARLIEST)
            info.external_attr = (found.st_mode & 0o777) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            digest.update(f"{name}\0{info.external_attr}\0{found.st_size}\0".encode())
            with archive.open(info, "w") as entry:
                _copy(file, found.st_size, entry, digest)
    return f"{URI_PREFIX}{digest.hexdigest()}.zip"


def _copy(path: Path, size: int, target: IO[bytes], digest: hashlib._Hash) -> None:
    """Copy the ``size`` bytes that a file had when it was looked at: a log grows meanwhile."""
    with path.open("rb") as file:
        while block := file.read(min(_BLOCK, size)):
            target.write(block)
            digest.update(block)
            size -= len(block)


def _check_size(size: int, path: Path) -> None:
    if size > MAX_BYTES:
        raise PackageError(
            f"Package size of {path} exceeds the limit of {MAX_BYTES >> 20} MiB. Exclude files by "
            "the field 'excludes' of the runtime environment or by a .gitignore file."
        )


def _check_count(files: int, path: Path) -> None:
    if files > MOST_FILES:
        raise PackageError(
            f"{path} has more than {MOST_FILES:,} files. Exclude some by the field 'excludes' of "
            "the runtime environment or by a .gitignore file."
        )


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PackageError(
            f"The name of {name!r} is not UTF-8, so that no package can hold it: give it another, "
            "or exclude it by the field 'excludes' of the runtime environment."
        ) from None


def _check_contents(path: Path) -> None:
    """What its table says is in a .zip file; nodes count it again."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise PackageError(f"{path} is no .zip file: {error}.") from error
    _check_count(len(entries), path)
    size = sum(entry.file_size for entry in entries)
    if size > MOST_UNPACKED_BYTES:
        raise PackageError(
            f"The files in {path} have {size:,} bytes; at most {MOST_UNPACKED_BYTES:,} may be."
        )


def part_key(uri: str, number: int) -> bytes:
    """Where a part is kept."""
    return f"{uri}#{number}".encode()


async def unpack(package: Path, folder: Path) -> int:
    """Write the files of a package into a new folder, in a process of its own; returns their size.

    Raises:
        PackageError: it is no package, or too large; or a file would lie outside of the folder.
    """
    import asyncio  # of raylets: a driver, which packs, has none

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(_UNZIP), str(package), str(folder),
        str(MOST_UNPACKED_BYTES), str(MOST_FILES), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        said, why = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        text = why.decode(errors="replace").strip()[-_SHOWN:]
        raise PackageError(text or f"Unpacking a package ended with {process.returncode}.")
    return int(said)
