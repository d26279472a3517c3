"""The container that a node runs in, by docker or podman: the texts for its host. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from nbray.machines.cluster_file import ClusterFile, ClusterFileError
from nbray.machines.mounts import digest
from nbray.machines.scripts import remote_path

# As the first process there it also reaps: a shell that waits takes in whatever ends.
_STAY = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"


@dataclass(frozen=True)
class Container:
    """One container.

    Attributes:
        tool: docker or podman.
        cluster: whose it is: containers of the same name that are not are left alone.
        options: of the file, as a shell on the host reads them.
        pull: the image anew before it runs.
        fixed_shm: the options say how large its /dev/shm is; else it is as large as the host's.
        mounts: remote paths of `file_mounts`, which are folders of the host in the container.
    """

    tool: str
    cluster: str
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
        """Run it anew; a container of this name that is not this cluster's is left alone."""
        lines = [self.remove(), *self._refuse_another()]
        image = shlex.quote(self.image)
        if self.pull:
            lines.append(f"{self.tool} pull {image} || exit")
        if any(mount.startswith("~") for mount in self.mounts):
            ask = ["run", "--rm", *self.options, "--entrypoint", "sh", image]
            lines.append(f"home=$({self.tool} {' '.join(ask)} -c 'echo \"$HOME\"') || exit")
        labels = ["--label", f"nbray={self.hash}", "--label", f"nbray-cluster={self.cluster}"]
        run = [self.tool, "run", "-d", "--name", self.name, "--net=host", *labels]
        words = [shlex.quote(word) for word in run]
        if not self.fixed_shm:
            words.append('--shm-size="$(df -B1 --output=size /dev/shm | tail -1 | tr -d " ")"')
        for mount in self.mounts:
            inside = remote_path(mount.rstrip("/")).replace('"$HOME"', '"$home"')
            words.append(f"-v {remote_path(self.staged(record, mount))}:{inside}")
        words += [*self.options, "--entrypoint", "sh", image, "-c", shlex.quote(_STAY)]
        return "\n".join([*lines, " ".join(words)])

    def remove(self) -> str:
        """End it, if it is there and this cluster's; all that runs in it ends, too."""
        listed = (
            f"{self.tool} ps -aq --filter {shlex.quote(f'name=^{re.escape(self.name)}$')} "
            f"--filter {shlex.quote(f'label=nbray-cluster={self.cluster}')}"
        )
        return f"for c in $({listed} 2>/dev/null); do {self.tool} rm -f $c >/dev/null || exit; done"

    def _refuse_another(self) -> list[str]:
        name = shlex.quote(self.name)
        return [
            f"if {self.tool} container inspect {name} >/dev/null 2>&1; then",
            f"  echo container {name} is there, and is not of cluster {self.cluster}: remove it, or"
            " give another docker.container_name >&2; exit 1",
            "fi",
        ]

    def take_in(self, staged: str, path: str) -> str:
        """Copy a file or folder of the host to a path in it; of a folder, what is in it."""
        name, there = shlex.quote(self.name), remote_path(path.rstrip("/"))
        parents = remote_path(path.rstrip("/").rpartition("/")[0] or "/")
        make = shlex.quote(f'mkdir -p {parents}; if [ -n "$1" ]; then mkdir -p {there}; fi')
        home = f"home=$({self.tool} exec {name} sh -c 'echo \"$HOME\"') || exit"
        target = there.replace('"$HOME"', '"$home"')
        return f"""{home}
if [ -d {remote_path(staged)} ]; then d=/.; else d=; fi
{self.tool} exec {name} sh -c {make} - "$d" || exit
exec {self.tool} cp {remote_path(staged)}$d {name}:{target}"""

    def take_out(self, path: str, staged: str) -> str:
        """Copy a path in it to a folder of the host, which is made anew."""
        name = shlex.quote(self.name)
        place, source = remote_path(staged), remote_path(path.rstrip("/"))
        target = source.replace('"$HOME"', '"$home"')
        return f"""home=$({self.tool} exec {name} sh -c 'echo "$HOME"') || exit
rm -rf {place}; mkdir -p {place} || exit
exec {self.tool} cp {name}:{target} {place}/"""

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
        "podman" if docker.use_podman else "docker", wanted.cluster_name, docker.container_name,
        image, options,
        docker.pull_before_run, docker.disable_shm_size_detection or _names_shm(options),
        tuple(sorted(wanted.file_mounts)),
    )  # fmt: skip


def _names_shm(options: Sequence[str]) -> bool:
    return any("--shm-size" in option or "--ipc" in option for option in options)
