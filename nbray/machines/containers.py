"""The container that a node runs in, by docker or podman: the texts for its host. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from nbray.machines.cluster_file import ClusterFile, ClusterFileError
from nbray.machines.mounts import digest
from nbray.machines.scripts import remote_path

_STAY = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"


@dataclass(frozen=True)
class Container:
    """One container.

    Attributes:
        tool: docker or podman.
        options: of the file, as a shell on the host reads them.
        pull: the image anew before it runs.
        fixed_shm: the options say how large its /dev/shm is; else it is as large as the host's.
        mounts: remote paths of `file_mounts`, which are folders of the host in the container.
    """

    tool: str
    name: str
    image: str
    options: tuple[str, ...]
    pull: bool
    fixed_shm: bool
    mounts: tuple[str, ...]

    @property
    def hash(self) -> str:
        """What changes when another container is wanted."""
        return digest(self)

    def staged(self, record: str, mount: str) -> str:
        """Where on the host a mount's files are; ``record`` is the path of the host's record."""
        return f"{record}/mounts/{digest(mount)}"

    def make(self, record: str) -> str:
        """Run it anew."""
        lines = [self.remove()]
        image = shlex.quote(self.image)
        if self.pull:
            lines.append(f"{self.tool} pull {image} || exit")
        if any(mount.startswith("~") for mount in self.mounts):
            ask = f"{self.tool} run --rm --entrypoint sh {image} -c 'echo \"$HOME\"'"
            lines.append(f"home=$({ask}) || exit")
        run = [self.tool, "run", "-d", "--init", "--name", self.name, "--net=host",
               "--label", f"nbray={self.hash}"]  # fmt: skip
        words = [shlex.quote(word) for word in run]
        if not self.fixed_shm:
            words.append('--shm-size="$(df -B1 --output=size /dev/shm | tail -1 | tr -d " ")"')
        for mount in self.mounts:
            inside = remote_path(mount.rstrip("/")).replace('"$HOME"', '"$home"')
            words.append(f"-v {remote_path(self.staged(record, mount))}:{inside}")
        words += [*self.options, "--entrypoint", "sh", image, "-c", shlex.quote(_STAY)]
        return "\n".join([*lines, " ".join(words)])

    def remove(self) -> str:
        """End it, if it is there; all that runs in it ends, too."""
        return f"{self.tool} rm -f {shlex.quote(self.name)} >/dev/null 2>&1 || true"

    def inside(self, text: str, *, tty: bool = False) -> str:
        """Run a text for POSIX sh in it; its stdin comes along."""
        flags = "-it" if tty else "-i"
        return f"exec {self.tool} exec {flags} {shlex.quote(self.name)} sh -c {shlex.quote(text)}"


def container_of(wanted: ClusterFile, *, is_head: bool) -> Container | None:
    """The container of a node, or None where it runs on the host itself.

    Raises:
        ClusterFileError: it has an image and no name.
    """
    docker = wanted.docker
    image = (docker.head_image if is_head else docker.worker_image) or docker.image
    if not image:
        return None
    if not docker.container_name:
        raise ClusterFileError("docker.container_name is missing.")
    own = docker.head_run_options if is_head else docker.worker_run_options
    options = (*docker.run_options, *own)
    return Container(
        "podman" if docker.use_podman else "docker", docker.container_name, image, options,
        docker.pull_before_run, docker.disable_shm_size_detection or _names_shm(options),
        tuple(sorted(wanted.file_mounts)),
    )  # fmt: skip


def _names_shm(options: Sequence[str]) -> bool:
    return any("--shm-size" in option or "--ipc" in option for option in options)
