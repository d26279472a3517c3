"""Pods of `kube_api` run as processes, each in namespaces of its own, on a network of their own.

The image of a container is this machine's /usr, Python and nbray. It runs as the user that its pod
names, below a root of its own, with the volumes, variables and files that a kubelet gives it, and
ends as a kubelet ends it: preStop, SIGTERM, SIGKILL. There are so many addresses; pods beyond them
are unschedulable. Number 0 is the API server's, and of whoever uses kubectl.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import ctypes
import datetime
import ipaddress
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import nbray
from nbray.testing import wait_until
from support import containers, ssh_hosts
from support.kube_api import KubeApi, kubeconfig

_NETNS = Path(__file__).with_name("netns_hosts.sh")
_NET = "10.77.9"
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_INIT = """set -e
mount --make-rprivate /
cd "$1"; shift
for d in $SEES; do mkdir -p ".$d"; mount --rbind "$d" ".$d"; done
mount -t proc proc proc; mount --rbind /dev dev; mount --rbind /sys sys
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p ".$2"; else mkdir -p ".${2%/*}"; touch ".$2"; fi
  mount --bind "$1" ".$2"; shift 2
done; shift
hostname "$POD"
exec chroot --userspec="$AS" . env -i "$@"
"""


def certificate(folder: Path, address: str) -> tuple[str, str]:
    """A certificate for an address, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address(address))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "ca.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    return str(folder / "ca.crt"), str(folder / "ca.key")


def _expanded(word: str, env: dict[str, str]) -> str:
    """As a kubelet does with arguments: $(NAME) is a variable of the container."""
    for name, value in env.items():
        word = word.replace(f"$({name})", value)
    return word


def why_not() -> str:
    """Why no pods can be run here; "" if they can."""
    if Path(sys.prefix).is_relative_to("/tmp"):
        return "this Python lies below /tmp, where pods have a folder of their own"
    missing = "" if shutil.which("kubectl") else "clusters on Kubernetes need kubectl"
    return ssh_hosts.why_not() or missing


class Kubelet:
    """Runs in the loop of its API."""

    def __init__(self, api: KubeApi, base: Path, prefix: str, count: int) -> None:
        self.api, self.base, self.prefix = api, base, prefix
        self.free = list(range(1, count))
        self.hosts = base / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.env: dict[str, list[str]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        places = {"/usr", sys.prefix, sys.base_prefix, str(Path(nbray.__file__).parent.parent)}
        places |= {str(Path(sys.executable).resolve().parent.parent)}
        self._sees = " ".join(sorted(places))
        api.run_in = lambda name, words: self.inside(name, *words)
        api.connect_in = self.connect

    async def run(self) -> None:
        at = -1
        store = self.api.store
        try:
            while True:
                async with store.news:
                    while store.version <= at:
                        await store.news.wait()
                at = store.version
                self._reclaim()
                for key, pod in list(store.objects.items()):
                    uid = pod["metadata"].get("uid", "")
                    if key[1] == "pods" and uid not in self._tasks and self._scheduled(pod):
                        life = self._live(copy.deepcopy(pod), self.free.pop(0))
                        self._tasks[uid] = asyncio.create_task(life)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _reclaim(self) -> None:
        """A volume goes with its claim."""
        kept = {key[3] for key in self.api.store.objects if key[1] == "persistentvolumeclaims"}
        for place in (self.base / "claims").glob("*"):
            if place.name not in kept:
                shutil.rmtree(place)

    def _scheduled(self, pod: dict[str, Any]) -> bool:
        if self.free:
            return True
        if not pod["status"]["conditions"]:
            message = "0/3 nodes are available: 3 Insufficient cpu."
            self._tasks[f"{pod['metadata']['uid']} waits"] = asyncio.create_task(
                self._write(pod, conditions=[{
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": message}])
            )  # fmt: skip
            pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "False"}]
        return False

    async def _write(self, pod: dict[str, Any], **status: Any) -> None:
        meta = pod["metadata"]
        key = ("v1", "pods", meta["namespace"], meta["name"])
        now = self.api.store.objects.get(key)
        if now is None or now["metadata"]["uid"] != meta["uid"]:
            return
        item = copy.deepcopy(now)
        item["status"] = {**item["status"], **status}
        await self.api.store.keep("MODIFIED", key, item)

    async def _live(self, pod: dict[str, Any], number: int) -> None:
        try:
            await self._live_at(pod, number)
        finally:
            self.free.append(number)
            await self.api.store.touch()  # pods that wait are looked at again

    async def _live_at(self, pod: dict[str, Any], number: int) -> None:
        meta, address = pod["metadata"], f"{_NET}.{10 + number}"
        key = ("v1", "pods", meta["namespace"], meta["name"])
        scheduled = {"type": "PodScheduled", "status": "True"}
        image = pod["spec"]["containers"][0]["image"]
        if "missing" in image:
            waiting = {"reason": "ErrImagePull", "message": f'failed to pull "{image}"'}
            await self._write(pod, conditions=[scheduled], containerStatuses=[
                {"name": "node", "state": {"waiting": waiting}}])  # fmt: skip
            await self._until_deleted(key, meta["uid"])
            return
        self._name(pod, address)
        restarts, last = 0, {}
        while True:
            process = await self._start(pod, number, address)
            self.running[meta["name"]] = process
            status: dict[str, Any] = {
                "phase": "Running", "podIP": address, "conditions": [scheduled],
                "containerStatuses": [{"name": "node", "restartCount": restarts,
                                       "state": {"running": {}}, "lastState": last}],
            }  # fmt: skip
            await self._write(pod, **status)
            watching = asyncio.create_task(self._watch(pod, process, status))
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                self._kill(process)
                raise
            finally:
                watching.cancel()
                self.running.pop(meta["name"], None)
            now = self.api.store.objects.get(key)
            gone = now is None or now["metadata"]["uid"] != meta["uid"]
            if gone or now["metadata"].get("deletionTimestamp"):
                if not gone:
                    await self.api.store.keep("DELETED", key, dict(now))
                return
            ended = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
            if pod["spec"].get("restartPolicy") == "Never":
                await self._write(pod, phase="Failed" if code else "Succeeded",
                                  conditions=[scheduled],
                                  containerStatuses=[{"name": "node", "state": ended}])  # fmt: skip
                return
            restarts, last = restarts + 1, ended
            waiting = {"reason": "CrashLoopBackOff", "message": "ended"}
            await self._write(pod, conditions=[scheduled], containerStatuses=[
                {"name": "node", "restartCount": restarts, "lastState": last,
                 "state": {"waiting": waiting}}])  # fmt: skip
            await asyncio.sleep(1)

    async def _until_deleted(self, key: Any, uid: str) -> None:
        while (now := self.api.store.objects.get(key)) and now["metadata"]["uid"] == uid:
            async with self.api.store.news:
                await self.api.store.news.wait()

    def _name(self, pod: dict[str, Any], address: str) -> None:
        """Services' names, as a cluster's DNS would have them."""
        name, subdomain = pod["metadata"]["name"], pod["spec"].get("subdomain")
        lines = [line for line in self.hosts.read_text().splitlines()
                 if line.split()[0] != address and name not in line.split()]  # fmt: skip
        names = [name]
        if subdomain:
            space = pod["metadata"]["namespace"]
            names += [f"{name}.{subdomain}", f"{name}.{subdomain}.{space}"]
        # In place: the file is mounted in all pods.
        self.hosts.write_text("\n".join([*lines, f"{address} {' '.join(names)}"]) + "\n")

    async def _start(
        self, pod: dict[str, Any], number: int, address: str
    ) -> asyncio.subprocess.Process:
        meta, spec = pod["metadata"], pod["spec"]
        container = spec["containers"][0]
        folder = self.base / "pods" / meta["uid"]
        root = folder / "root"
        if not root.exists():
            root.mkdir(parents=True)
            subprocess.run(["tar", "-x", "-C", root], input=containers.rootfs(), check=True)
        user = (spec.get("securityContext") or {}).get("runAsUser", 0)
        mounts = [str(self.hosts), "/etc/hosts"]
        volumes = {one["name"]: one for one in spec.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            place = self._volume(meta, folder, volumes[mount["name"]], user)
            mounts += [str(place), mount["mountPath"]]
        if spec.get("automountServiceAccountToken"):
            place = folder / "account"
            place.mkdir(exist_ok=True)
            for name, text in {
                "token": self.api.token, "namespace": meta["namespace"],
                "ca.crt": (self.base / "ca.crt").read_text(),
            }.items():  # fmt: skip
                (place / name).write_text(text)
            mounts += [str(place), _ACCOUNT]
        fields = {"status.podIP": address, "metadata.name": meta["name"],
                  "metadata.namespace": meta["namespace"]}  # fmt: skip
        env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp",
            "KUBERNETES_SERVICE_HOST": f"{_NET}.10",
            "KUBERNETES_SERVICE_PORT": str(self.api.port),
        }  # fmt: skip
        for one in container.get("env", ()):
            source = one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            env[one["name"]] = fields[source] if source else one["value"]
        words = [f"{name}={value}" for name, value in env.items()]
        self.env[meta["name"]] = words
        self.api.logs.setdefault(meta["name"], "")
        process = await asyncio.create_subprocess_exec(
            "nsenter", f"--net=/run/netns/{self.prefix}{number}", "unshare", "--mount", "--uts",
            "--pid", "--fork", "--kill-child", "bash", "-c", _INIT, "pod", str(root), *mounts,
            "--", *words, *(_expanded(word, env) for word in container["args"]),
            env={"PATH": os.environ["PATH"], "SEES": self._sees, "POD": meta["name"],
                 "AS": f"{user}:{user}"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        reading = asyncio.create_task(self._read(meta["name"], process))
        self._tasks[f"{meta['uid']} says {process.pid}"] = reading
        return process

    async def _read(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while part := await process.stdout.read(1 << 16):
            self.api.logs[name] += part.decode(errors="replace")

    def _volume(self, meta: Any, folder: Path, volume: dict[str, Any], user: int) -> Path:
        if "persistentVolumeClaim" in volume:
            place = self.base / "claims" / str(volume["persistentVolumeClaim"]["claimName"])
        else:
            place = folder / f"volume-{volume['name']}"
        place.mkdir(parents=True, exist_ok=True)
        space = meta["namespace"]
        texts: dict[str, bytes] = {}
        if "secret" in volume:
            key = ("v1", "secrets", space, volume["secret"]["secretName"])
            data = self.api.store.objects[key]["data"]
            texts = {name: base64.b64decode(text) for name, text in data.items()}
        if "configMap" in volume:
            key = ("v1", "configmaps", space, volume["configMap"]["name"])
            data = self.api.store.objects[key]["data"]
            texts = {name: text.encode() for name, text in data.items()}
        for name, content in texts.items():
            (place / name).write_bytes(content)
            os.chown(place / name, 0, user)
            (place / name).chmod(0o440)
        os.chown(place, 0, user)
        place.chmod(0o2775)
        return place

    def first_process(self, name: str) -> int:
        """Of a pod, as the machine numbers it."""
        parent = self.running[name].pid
        listing = Path(f"/proc/{parent}/task/{parent}/children")
        # nsenter becomes unshare, which has one child
        wait_until(lambda: listing.read_text().split(), f"the first process of {name}")
        return int(listing.read_text().split()[0])

    def inside(self, name: str, *command: str, user: int = 1000) -> list[str]:
        """A command line that runs a command in a pod, as `kubectl exec` would."""
        pid = str(self.first_process(name))
        return ["nsenter", "-t", pid, "-n", "-m", "-u", "-p", "-r", "-w", f"--setuid={user}",
                f"--setgid={user}", "env", "-i", *self.env[name], *command]  # fmt: skip

    def connect(self, name: str, port: int) -> socket.socket:
        """A connection to a port of a pod, as from inside of it."""
        made: list[socket.socket] = []
        failed: list[OSError] = []

        def there() -> None:
            try:
                with open(f"/proc/{self.first_process(name)}/ns/net") as space:
                    if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), 0x40000000):
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.create_connection(("127.0.0.1", port), 5))
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=there)  # its own, since it stays in that network
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return made[0]

    async def _exec(self, name: str, command: list[str]) -> int:
        try:
            line = self.inside(name, *command)
        except (KeyError, OSError):
            return 1
        process = await asyncio.create_subprocess_exec(
            *line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return await process.wait()

    async def _watch(
        self, pod: dict[str, Any], process: asyncio.subprocess.Process, status: dict[str, Any]
    ) -> None:
        """Whether it is ready, and whether it is to end."""
        meta, container = pod["metadata"], pod["spec"]["containers"][0]
        key = ("v1", "pods", meta["namespace"], meta["name"])
        probe = container.get("readinessProbe", {}).get("exec", {}).get("command")
        ready = False
        while True:
            now = self.api.store.objects.get(key)
            if now is None or now["metadata"]["uid"] != meta["uid"]:
                self._kill(process)
                return
            if "deletionTimestamp" in now["metadata"]:
                await self._end(pod, process)
                return
            found = probe is None or not await self._exec(meta["name"], probe)
            if found != ready:
                ready = found
                conditions = [*status["conditions"],
                              {"type": "Ready", "status": str(ready)}]  # fmt: skip
                await self._write(pod, **{**status, "conditions": conditions})
            await asyncio.sleep(0.3)

    async def _end(self, pod: dict[str, Any], process: asyncio.subprocess.Process) -> None:
        meta = pod["metadata"]
        key = ("v1", "pods", meta["namespace"], meta["name"])
        began = asyncio.get_running_loop().time()
        ending = asyncio.create_task(self._ask_to_end(pod, process))
        try:
            while not ending.done():  # the time that it has may become shorter meanwhile
                now = self.api.store.objects.get(key, {"metadata": {}})
                grace = now["metadata"].get("deletionGracePeriodSeconds", 0)
                if asyncio.get_running_loop().time() > began + grace:
                    break
                await asyncio.wait([ending], timeout=0.3)
        finally:
            ending.cancel()
        self._kill(process)

    async def _ask_to_end(self, pod: dict[str, Any], process: asyncio.subprocess.Process) -> None:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        if hook:
            await self._exec(name, hook)
        with suppress(KeyError, OSError):
            os.kill(self.first_process(name), signal.SIGTERM)
        await process.wait()

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.kill()  # and by --kill-child all that runs there


class KubeCluster:
    """An API server with a kubelet, and where a test stands beside them."""

    def __init__(self, api: KubeApi, kubelet: Kubelet, base: Path, prefix: str) -> None:
        self.api, self.kubelet, self.base = api, kubelet, base
        self._enter = ["nsenter", f"--net=/run/netns/{prefix}0"]

    def run(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command beside the API server, with a configuration of kubectl."""
        env = os.environ | {"KUBECONFIG": str(self.base / "config"), "HOME": str(self.base)}
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        return subprocess.run(
            [*self._enter, *words], env=env, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, cwd=self.base,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        env = os.environ | {"KUBECONFIG": str(self.base / "config"), "HOME": str(self.base)}
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        return subprocess.Popen(
            [*self._enter, *words], env=env, text=True, stdin=subprocess.DEVNULL, cwd=self.base,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def inside(
        self, pod: str, *words: str, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """A command in a pod."""
        return subprocess.run(
            self.kubelet.inside(pod, *words), capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def python(self, text: str, timeout: float = 120) -> str:
        """What a program on the head prints."""
        head = next(name for name in self.kubelet.running if name.endswith("-head-0"))
        words = 'export NBRAY_ADDRESS=$(sed -n \'s/.*"gcs_address": "\\([^"]*\\)".*/\\1/p\' '
        words += "/tmp/nbray/session/session.json) NBRAY_TMPDIR=/var/lib/nbray/s; "
        words += f"exec python -c {shlex.quote(text)}"
        done = self.inside(head, "sh", "-c", words, timeout=timeout)
        assert done.returncode == 0, done.stderr + self.api.logs[head][-3000:]
        return done.stdout


@contextmanager
def kube_cluster(count: int) -> Iterator[KubeCluster]:
    """Make one with room for ``count`` - 1 pods, and remove it with all that runs there."""
    base = Path(tempfile.mkdtemp(prefix="nbk"))
    base.chmod(0o755)
    prefix = f"nk{os.getpid() % 100_000}x"
    env = os.environ | {"NETNS_NET": _NET}
    try:
        subprocess.run([_NETNS, "up", prefix, str(count)], env=env, check=True, timeout=60)
        tls = certificate(base, f"{_NET}.10")
        api = KubeApi(f"{_NET}.10", f"/run/netns/{prefix}0", tls, token="a-token-of-the-test")
        kubelet = Kubelet(api, base, prefix, count)
        api.beside.append(kubelet.run)
        api.start()
        (base / "config").write_text(kubeconfig(api, tls[0]))
        # The API checks what it is given by itself, and has no schemas for kubectl.
        program = base / "kubectl"
        program.write_text(
            "#!/bin/sh\nfor word; do case $word in apply|create|replace) "
            'set -- "$@" --validate=false;; esac; done\nexec kubectl "$@"\n'
        )
        program.chmod(0o755)
        try:
            yield KubeCluster(api, kubelet, base, prefix)
        finally:
            api.stop()
    finally:
        subprocess.run([_NETNS, "down", prefix], env=env, timeout=60, capture_output=True)
        shutil.rmtree(base, ignore_errors=True)
