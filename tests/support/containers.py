"""Containers by podman, without a registry and without a download.

An image is a few links and an empty folder for each that a system has; the programs are the
machine's own, mounted for reading. `run_options` is what such a container needs, and what this
machine needs of every container.
"""

from __future__ import annotations

import io
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import nbray

_FOLDERS = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp", "home/ray")
_USERS = "root:x:0:0:root:/root:/bin/bash\nray:x:1000:1000::/home/ray:/bin/bash\n"
_FILES = {
    "etc/passwd": _USERS,
    "etc/group": "root:x:0:\nray:x:1000:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def why_not() -> str:
    """Why containers cannot be run here; empty if they can."""
    missing = [name for name in ("podman", "runc") if shutil.which(name) is None]
    return f"containers need {', '.join(missing)}" if missing else ""


def rootfs() -> bytes:
    """A tar of almost nothing: its programs are mounted at /usr."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in _FOLDERS:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            if name == "home/ray":
                info.uid = info.gid = 1000
            tar.addfile(info)
        for name in ("bin", "lib", "lib64", "sbin"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(info)
        for name, text in _FILES.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o644
            tar.addfile(info, io.BytesIO(text.encode()))
    return file.getvalue()


def limits() -> list[str]:
    """A root who may not raise limits can run no container with podman's own."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return ["--ulimit", f"nofile={most}:{most}", "--ulimit", "nproc=32768:32768"]


def run_options() -> list[str]:
    """What a container of `rootfs` needs to have programs, Python and nbray."""
    places = {"/usr", sys.prefix, sys.base_prefix, str(Path(nbray.__file__).parent.parent)}
    places |= {str(Path(sys.executable).resolve().parent.parent)}
    mounts = [f"--volume={place}:{place}:ro" for place in sorted(places)]
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return [*limits(), *mounts, f"--env=PATH={path}"]


def podman_of(folder: Path, storage: str) -> None:
    """Write a `podman` into a folder, whose containers and images are apart from all others.

    Args:
        folder: of programs.
        storage: where its containers are, as the podman sees it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "podman"
    program.write_text(
        f"#!/bin/sh\nexec {shutil.which('podman')} --root {storage}/root --runroot {storage}/run "
        '--tmpdir /run/libpod-tests --runtime runc --cgroup-manager cgroupfs "$@"\n'
    )
    program.chmod(0o755)


def import_image(podman: Sequence[str], name: str) -> None:
    """Make the image of `rootfs`."""
    subprocess.run([*podman, "import", "-q", "-", name], input=rootfs(), check=True,
                   capture_output=True, timeout=120)  # fmt: skip
