"""Folders as packages: packed by content, kept in the GCS's key-value space, unpacked on a node.

A package is a .zip whose name is the hash of what is in it, so that the same files are sent once,
whoever sends them, and unpacked once per node. It travels in parts, which a GCS stores well.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbray.runtime_env.spec import URI_PREFIX

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MAX_BYTES = 500 << 20
PART_BYTES = 4 << 20
MOST_HOOK_BYTES = 95 << 20  # as a function of a task
NAMESPACE = b"runtime_env"
_ALWAYS_EXCLUDED = (".git/", "__pycache__/", ".venv/", "*.pyc")
_EARLIEST = (1980, 1, 1, 0, 0, 0)


class PackageError(Exception):
    """A folder cannot be packed, or a package cannot be unpacked; the text says why."""


def pack(path: Path, excludes: Sequence[str], keep_name: bool) -> tuple[str, bytes]:
    """A folder or file as a package: its URI and its bytes.

    Args:
        path: a folder, .py file, .whl or .zip file.
        excludes: patterns as in .gitignore, beside those of the folder's own .gitignore files.
        keep_name: put the folder itself into the package, so that it can be imported by name.

    Raises:
        PackageError: all files together are larger than 500 MB.
    """
    digest = hashlib.sha256()
    buffer = io.BytesIO()
    if path.suffix in (".zip", ".whl") and path.is_file():
        data = path.read_bytes()
        _check_size(len(data), path)
        return f"{URI_PREFIX}{hashlib.sha256(data).hexdigest()}.zip", data
    total = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file, name in sorted(_files(path, excludes, keep_name)):
            total += file.stat().st_size
            _check_size(total, path)
            data = file.read_bytes()
            info = zipfile.ZipInfo(name, _EARLIEST)
            info.external_attr = (file.stat().st_mode & 0o777) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
            digest.update(f"{name}\0{info.external_attr}\0{len(data)}\0".encode() + data)
    return f"{URI_PREFIX}{digest.hexdigest()}.zip", buffer.getvalue()


def _check_size(size: int, path: Path) -> None:
    if size > MAX_BYTES:
        raise PackageError(
            f"Package size of {path} exceeds the limit of {MAX_BYTES >> 20} MiB. Exclude files by "
            "the field 'excludes' of the runtime environment or by a .gitignore file."
        )


def _files(path: Path, excludes: Sequence[str], keep_name: bool) -> Iterator[tuple[Path, str]]:
    if path.is_file():
        yield path, path.name
        return
    prefix = f"{path.name}/" if keep_name else ""
    rules = [(path, _spec([*_ALWAYS_EXCLUDED, *excludes]))]
    yield from _walk(path, path, prefix, rules)


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    import pathspec  # only who sends files needs it

    return pathspec.GitIgnoreSpec.from_lines(lines)


_Rules = list[tuple[Path, "GitIgnoreSpec"]]


def _walk(folder: Path, root: Path, prefix: str, rules: _Rules) -> Iterator[tuple[Path, str]]:
    ignored = folder / ".gitignore"
    if ignored.is_file():
        lines = ignored.read_text(errors="replace").splitlines()
        rules = [*rules, (folder, _spec(lines))]
    for entry in sorted(os.scandir(folder), key=lambda found: found.name):
        path = Path(entry.path)
        slash = "/" if entry.is_dir() else ""
        if any(spec.match_file(f"{path.relative_to(base)}{slash}") for base, spec in rules):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(path, root, prefix, rules)
        elif entry.is_file():
            yield path, prefix + path.relative_to(root).as_posix()


def parts(data: bytes) -> list[bytes]:
    """The bytes of a package in the pieces that travel."""
    return [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]


def part_key(uri: str, number: int) -> bytes:
    """Where a part is kept."""
    return f"{uri}#{number}".encode()


def unpack(data: bytes, folder: Path) -> None:
    """Write the files of a package into a new folder, complete or not at all.

    Raises:
        PackageError: it is no package, or a file would lie outside of the folder.
    """
    partial = folder.with_name(folder.name + ".partial")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                target = (partial / info.filename).resolve()
                if not target.is_relative_to(partial.resolve()):
                    raise PackageError(f"A package has a file outside of itself: {info.filename}")
                if info.is_dir():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(info))
                mode = info.external_attr >> 16 & 0o777
                if mode:
                    target.chmod(mode | 0o600)
    except zipfile.BadZipFile as error:
        raise PackageError(f"A package is damaged: {error}") from error
    partial.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)
