"""The private folders of a user in which session folders are made and found.

Nothing trusts a predictable name in a shared folder: a folder is used only if it is the user's own,
closed to others and no link, whoever made it. The first of these that is, or can be made so, takes
new sessions; sessions are looked for in all of them:

1. ``NBRAY_TMPDIR``, which then is the only one;
2. ``XDG_RUNTIME_DIR/nbray``, if that lies on a disk: where a login manager keeps it in memory, it
   goes when the user logs out, which clusters of ``nbray start`` do not, and values that are
   spilled would go from memory to memory;
3. ``/tmp/nbray-UID``;
4. when somebody else has that name, ``/tmp/nbray-UID-RANDOM``, which later commands find by its
   owner.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from nbray.common.folders import absolute

_SHARED = Path("/tmp")
_LONGEST_PATH = 107  # that the kernel takes for a socket
_LONGEST_ROOT = _LONGEST_PATH - len("/s0101000000-00000000/sockets/raylet-00000000")
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


def sessions_root() -> Path:
    """The folder for new sessions of this user, made private when it is new.

    Raises:
        PermissionError: ``NBRAY_TMPDIR`` is somebody else's, or open to others.
        OSError: no folder can be made, or its path is too long.
    """
    named = os.environ.get("NBRAY_TMPDIR")
    if named:
        root = Path(absolute(named, "NBRAY_TMPDIR"))
        surplus = len(os.fsencode(root)) - _LONGEST_ROOT
        if surplus > 0:
            raise OSError(
                f"NBRAY_TMPDIR={named} has too long a path for the sockets of a cluster, by "
                f"{surplus} bytes: name a shorter one."
            )
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(root):
            raise PermissionError(
                f"NBRAY_TMPDIR={named} must be a folder of yours, no link, with mode 0700: run "
                "chmod 700 on it, or name another."
            )
        return root
    for root in _named_roots():
        try:
            root.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue  # a file or a link of that name, or a disk that takes nothing: the next one
        if _is_private(root):
            return root
    for root in _random_roots():
        return root
    return Path(tempfile.mkdtemp(prefix=_prefix(), dir=_SHARED))


def known_roots() -> list[Path]:
    """The folders in which sessions of this user may be; none is made.

    Raises:
        PermissionError: as for `sessions_root`.
    """
    if os.environ.get("NBRAY_TMPDIR"):
        return [sessions_root()]
    return [root for root in _named_roots() if _is_private(root)] + _random_roots()


def _named_roots() -> list[Path]:
    roots = [_SHARED / f"nbray-{os.getuid()}"]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_private(Path(runtime)) and not _is_in_memory(Path(runtime)):
        roots.insert(0, Path(absolute(runtime, "XDG_RUNTIME_DIR")) / "nbray")
    return [root for root in roots if len(os.fsencode(root)) <= _LONGEST_ROOT]


def _random_roots() -> list[Path]:
    found = sorted(_SHARED.glob(f"{_prefix()}*"))
    return [root for root in found if _is_private(root)]


def _prefix() -> str:
    return f"nbray-{os.getuid()}-"


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user that nobody else may enter, and no link to one."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return ours and not stat.S_IMODE(found.st_mode) & 0o077


def _is_in_memory(folder: Path) -> bool:
    """Whether what is written there takes memory, as the kernel's list of mounts tells."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, described = line.partition(" - ")
        if fields.split()[2] == wanted:
            return described.split()[0] in _IN_MEMORY
    return False
