"""What is copied to hosts: the hash of its contents, and the command that copies it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pathspec

from nbray.machines.cluster_file import ClusterFileError


def digest(*parts: object) -> str:
    """A short name of what the parts say."""
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()[:20]


def hash_of(mounts: Mapping[str, str], exclude: Sequence[str] = ()) -> str:
    """What changes when a file of the mounts does, its mode, or where it goes.

    Args:
        mounts: local paths by remote ones.
        exclude: patterns of rsync; of what they leave out, changes are nobody's.

    Raises:
        ClusterFileError: a file is not there, or cannot be read.
    """
    found = hashlib.sha256()
    left_out = pathspec.GitIgnoreSpec.from_lines(exclude)
    for remote, local in sorted(mounts.items()):
        path = Path(local).expanduser()
        found.update(f"{remote}\0{path.is_dir()}\0".encode(errors="surrogateescape"))
        if not path.exists():
            raise ClusterFileError(f"file_mounts: {local} is not there (it is to go to {remote}).")
        try:
            for one in _files(path):
                if not left_out.match_file(one.relative_to(path)):
                    _add(found, one, path)
        except OSError as error:
            raise ClusterFileError(f"file_mounts: {local} cannot be read: {error}") from error
    return found.hexdigest()[:20]


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted([*files, *folders]):
            yield Path(folder, name)


def _add(found: hashlib._Hash, path: Path, root: Path) -> None:
    status = path.lstat() if path != root else path.stat()
    name = os.fsencode(path.relative_to(root))
    found.update(b"%d %s %o %d\n" % (len(name), name, status.st_mode, status.st_size))
    if stat.S_ISLNK(status.st_mode):
        found.update(os.fsencode(os.readlink(path)))
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                found.update(part)


def rsync_command(
    rsh: str, source: str, target: str, exclude: Sequence[str] = (), filters: Sequence[str] = ()
) -> list[str]:
    """Copy ``source`` to ``target``, either of which is HOST:PATH."""
    command = ["rsync", "-azs", "--inplace", "--rsh", rsh]
    for pattern in exclude:
        command += ["--exclude", pattern]
    for name in filters:
        command += ["--filter", f"dir-merge,- {name}"]
    return [*command, "--", source, target]


def ends(remote: str, local: str) -> tuple[str, str]:
    """Remote and local path as rsync wants them: of a folder, what is in it."""
    path = Path(local).expanduser()
    if path.is_dir():
        return remote.rstrip("/") + "/", f"{of_this_machine(str(path))}/"
    return remote, of_this_machine(str(path))


def of_this_machine(path: str) -> str:
    """A path that rsync takes for none of another machine's, whatever stands in it."""
    end = "/" if path.endswith("/") else ""
    return os.path.abspath(os.path.expanduser(path)).rstrip("/") + end
