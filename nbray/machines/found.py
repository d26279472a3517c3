"""What a host answers when it is asked what it has of a cluster: one round trip, no Python."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

_BEGIN = "nbray-found-begin"
_END = "nbray-found-end"


@dataclass(frozen=True)
class Found:
    """What a host has of a cluster.

    Attributes:
        error: why it did not answer; all else is empty then.
        own_address: the address at which ssh reached it.
        files, setup, start: hashes of what was copied, set up and started there, when it was done.
        joined: the session of the head that its node was started for.
        session: the session folder of its node.
        gcs_address, node_id: of that node.
        instance: what an autoscaler knows that node by; empty if by nothing.
        runs: its raylet lives.
        can_come_back: the folder of a head is there whose node has ended without being told to.
        container: the hash of its container, if that runs.
        token: the cluster's, of the head only.
        hosts: the machines that the head has heard of, itself too.
        scaling: the hash of what its autoscaler was handed.
        beside: other machines that have a node of this cluster, where homes are shared.
    """

    error: str = ""
    own_address: str = ""
    files: str = ""
    setup: str = ""
    start: str = ""
    joined: str = ""
    session: str = ""
    gcs_address: str = ""
    node_id: str = ""
    instance: str = ""
    runs: bool = False
    can_come_back: bool = False
    container: str = ""
    token: str = ""
    hosts: tuple[str, ...] = ()
    scaling: str = ""
    beside: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the cluster is there."""
        return not (self.files or self.setup or self.session or self.container or self.token)


def question(record: str) -> str:
    """The text for a POSIX shell; ``record`` is the folder of the host's record, as a shell word.

    It begins after whatever the host's own files for shells print.
    """
    return f"""R={record}
echo {_BEGIN}
echo "ssh=$SSH_CONNECTION"
for f in files setup start hosts token container scaling instance; do
  if [ -f "$R/$f" ]; then printf '%s=%s\\n' "$f" "$(tr '\\n' ' ' <"$R/$f")"; fi
done
for o in "${{R%/*}}"/*/session; do
  if [ -L "$o" ] && ! [ "$o" -ef "$R/session" ]; then
    o=${{o%/session}}; printf 'beside=%s\\n' "${{o##*/}}"
  fi
done
s=$(readlink "$R/session" 2>/dev/null) && {{
  echo "session=$s"
  if [ -f "$s/session.json" ]; then
    printf 'info=%s\\n' "$(tr '\\n' ' ' <"$s/session.json")"
    for p in $(sed -n 's/.*"pids": \\[\\([^]]*\\)\\].*/\\1/p' "$s/session.json" | tr ',' ' '); do
      if [ -r "/proc/$p/stat" ]; then printf 'stat=%s\\n' "$(cat "/proc/$p/stat" 2>/dev/null)"; fi
    done
  fi
}}
echo {_END}
"""


def in_container(cluster: str, name: str, tool: str, record: str) -> str:
    """The same of a node in a container: what stands in it is asked there, if it runs."""
    inner = shlex.quote(question(record))
    ours = f'eq (index .Config.Labels "nbray-cluster") "{cluster}"'
    shown = f'{{{{if {ours}}}}}{{{{index .Config.Labels "nbray"}}}}{{{{end}}}}'
    return f"""if {tool} exec {shlex.quote(name)} sh -c {inner} 2>/dev/null; then
  echo "running=$({tool} container inspect -f '{shown}' {shlex.quote(name)})"
else
  echo {_BEGIN}; echo {_END}
fi
echo "ssh=$SSH_CONNECTION"
"""


def read(answer: str, is_head: bool) -> Found:
    """What `question` brought.

    Args:
        answer: all that came back.
        is_head: the node has a GCS, which may come back.
    """
    _, begun, rest = answer.partition(_BEGIN)
    if not begun or _END not in rest:
        return Found(error=f"its shell answered something else: {answer.strip()[-500:]!r}")
    said: dict[str, list[str]] = {}
    for line in rest.splitlines():
        key, sign, value = line.partition("=")
        if sign:
            said.setdefault(key, []).append(value.strip())

    def one(key: str) -> str:
        return said.get(key, [""])[-1]

    started, _, joined = one("start").partition(" ")
    info = _info(one("info"))
    alive = _alive(info, said.get("stat", []))
    raylet = 1 if is_head else 0
    connection = one("ssh").split()
    return Found(
        own_address=connection[2].removeprefix("::ffff:") if len(connection) == 4 else "",
        files=one("files"), setup=one("setup"), start=started, joined=joined,
        session=one("session"), gcs_address=str(info.get("gcs_address", "")),
        node_id=str(info.get("node_id", "")), instance=one("instance"), runs=raylet in alive,
        can_come_back=is_head and bool(info) and raylet not in alive,
        container=one("running"), token=one("token"), hosts=tuple(one("hosts").split()),
        scaling=one("scaling"), beside=tuple(said.get("beside", ())),
    )  # fmt: skip


def _info(text: str) -> dict[str, object]:
    try:
        info = json.loads(text)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def _alive(info: dict[str, object], stats: list[str]) -> set[int]:
    """The places of the processes that run, and still are those of the session."""
    began = {}
    for stat in stats:
        pid, _, rest = stat.partition(" ")
        fields = rest.rpartition(")")[2].split()
        if len(fields) > 19 and fields[0] != "Z":
            began[int(pid)] = int(fields[19])
    pids, ticks = info.get("pids"), info.get("start_ticks")
    if not isinstance(pids, list) or not isinstance(ticks, list):
        return set()
    both = zip(pids, ticks, strict=False)
    return {place for place, (pid, tick) in enumerate(both) if tick and began.get(pid) == tick}
