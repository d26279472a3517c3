"""What `nbray up` does for the autoscaler of a cluster that may grow: its file, and its key.

The autoscaler runs on the head and reaches machines by ssh. It has a key of its own, which is made
on the head and never leaves it; each machine of the pool is told its public half. So no key of a
person is copied, and no agent forwarded. Without bounds that differ there is neither.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shlex
from collections.abc import Sequence

import msgspec
import yaml

from nbray.machines import scripts
from nbray.machines.cluster_file import ClusterFile
from nbray.machines.hosts import Host, HostError
from nbray.machines.mounts import digest
from nbray.machines.remote import in_cluster

FILE = "autoscaling.yaml"
HELD = "held"
"""In the record of a head, where its hash was, while workers were let go."""

_KEY = "deploy_key"
_QUICK_S = 30.0
TYPE = "local.cluster.node"
"""Of which type the nodes of a list of machines are."""


def may_grow(wanted: ClusterFile) -> bool:
    """Whether the number of workers is left to the demand."""
    if wanted.autoscaling is not None:
        return True
    there_are = len(wanted.provider.worker_ips)
    least = there_are if wanted.min_workers is None else wanted.min_workers
    most = there_are if wanted.max_workers is None else wanted.max_workers
    return least < min(most, there_are)


def text_for(wanted: ClusterFile, head: Host) -> str:
    """The file for the autoscaler of a head."""
    if wanted.autoscaling is not None:
        return yaml.safe_dump(wanted.autoscaling)
    auth = msgspec.structs.replace(
        wanted.auth, ssh_private_key=_key_of(head), ssh_proxy_command=None, ssh_config=None,
        known_hosts=None,
    )  # fmt: skip
    given = msgspec.to_builtins(msgspec.structs.replace(wanted, auth=auth))
    return yaml.safe_dump({name: value for name, value in given.items() if value is not None})


def described(wanted: ClusterFile, head: Host) -> str:
    """The hash of it; empty where nothing grows."""
    return digest(text_for(wanted, head)) if may_grow(wanted) else ""


def _key_of(head: Host) -> str:
    return f"{head.record_path}/{_KEY}"


async def prepare_head(wanted: ClusterFile, head: Host) -> None:
    """Give the head the file for its autoscaler.

    Raises:
        HostError: it failed.
    """
    await head.do(
        "handing it the file", scripts.keep_stdin(head.record, FILE),
        stdin=text_for(wanted, head).encode(), timeout_s=_QUICK_S,
    )  # fmt: skip


async def make_key(wanted: ClusterFile, head: Host) -> str:
    """Make the key of its autoscaler, which reaches machines by ssh; its public half.

    Raises:
        HostError: it failed.
    """
    word = scripts.remote_path(_key_of(head))
    comment = shlex.quote(f"nbray autoscaler of {wanted.cluster_name}")
    made = await head.do(
        "making a key for its autoscaler",
        f"test -f {word} || ssh-keygen -q -t ed25519 -N '' -C {comment} -f {word}\ncat {word}.pub",
        timeout_s=_QUICK_S,
    )
    found = re.search(r"^ssh-ed25519 \S+.*$", made, re.MULTILINE)
    if found is None:
        raise HostError("making a key for its autoscaler", "ssh-keygen made none")
    return found[0].strip()


async def let_in(public: str, hosts: Sequence[Host]) -> list[str]:
    """Have machines accept the key; sentences on those that were not told."""

    async def one(host: Host) -> str:
        line = shlex.quote(public)
        text = (
            "umask 077\nmkdir -p ~/.ssh && touch ~/.ssh/authorized_keys && "
            f"{{ grep -qxF {line} ~/.ssh/authorized_keys || "
            f"printf '%s\\n' {line} >> ~/.ssh/authorized_keys; }}"
        )
        try:
            await host.do("letting the autoscaler in", text, inside=False, timeout_s=_QUICK_S)
        except HostError as error:
            return f"{host.machine.name}: {error}"
        return ""

    return [said for said in await asyncio.gather(*map(one, hosts)) if said]


def _stem(host: str) -> str:
    return f"up-{re.sub(r'[^a-z0-9-]', '-', host.lower())}"[:30]


def instance_of_up(host: str) -> str:
    """A name for the instance that `nbray up` is about to start on a machine."""
    return f"{_stem(host)}-{secrets.token_hex(4)}"


def may_be_on(instance: str, host: str) -> bool:
    """Whether `nbray up` may have started that instance there."""
    return instance.rpartition("-")[0] == _stem(host)


def labels_of(instance: str) -> str:
    """The labels of a node that `nbray up` starts itself, which its autoscaler knows it by."""
    return json.dumps({"nbray.io/instance-id": instance, "nbray.io/node-type": TYPE})


def left_by(bounds: str) -> str:
    """What is there when `hold` is over."""
    return "no worker is left" if bounds == "none" else "min_workers are left"


async def hold(head: Host, bounds: str, patience_s: float) -> None:
    """Have the autoscaler let nodes go, and start no other.

    Args:
        head: of the cluster.
        bounds: ``none`` or ``least``, as `nbray scale` has them; ``file`` ends it.
        patience_s: so long it is waited for.

    Raises:
        HostError: it failed, or nodes have not left in that time.
    """
    wait = f" --wait={patience_s:g}" if patience_s else ""
    text = in_cluster(
        head, f'"$NBRAY_PYTHON" -P -c "from nbray.cli import main; main()" scale {bounds}{wait} '
        '--address "$NBRAY_ADDRESS"',
    )  # fmt: skip
    await head.do("telling its autoscaler", text, timeout_s=patience_s + 2 * _QUICK_S)
