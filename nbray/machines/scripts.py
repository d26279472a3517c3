"""The texts that hosts run, and the record of a host that they keep: pure.

The record is a folder of the user on the host, ``~/.nbray/clusters/NAME/HOST``; HOST is in it since
homes may be shared. In it: ``files``, ``setup``, ``start`` and ``scaling``, hashes that are written
when a step is done, so that what was interrupted is done again; ``session``, a link to the folder
of the node, ``python``, ``instance``, by which an autoscaler knows that node, and ``running``, all
four written by `nbray start`; ``token``; ``lock`` and ``leader``, whoever works there. On the head
also ``hosts``, and ``starting`` (see `nbray.machines.starting`).
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping, Sequence

BUSY = 75
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]")


def record_path(cluster: str, host: str) -> str:
    """The folder of the record, as a path of the host's user."""
    return f"~/.nbray/clusters/{cluster}/{_UNSAFE.sub('_', host)}"


def remote_path(path: str) -> str:
    """A path on a host as a word of its shell: a ``~`` is its home."""
    if path.startswith("~/"):
        return f'"$HOME"/{shlex.quote(path[2:])}'
    return '"$HOME"' if path == "~" else shlex.quote(path)


def for_any_shell(text: str) -> str:
    """A command line for whatever login shell the user has there: POSIX sh runs ``text``."""
    return f"exec sh -c {shlex.quote(text)}"


def as_user(command: str, *, login: bool, exports: Mapping[str, str]) -> str:
    """A command of the file as the user's own shell on the host runs it.

    Args:
        command: what the user wrote.
        login: with the user's start-up files, which may bring the right Python.
        exports: variables, as shell words that are expanded on the host.
    """
    lines = [f"export {name}={word}" for name, word in exports.items()]
    lines += ['ray() { nbray "$@"; }', "export -f ray", command]
    if not login:
        return f"exec bash -c {_packed(lines)}"
    # An interactive bash without a terminal complains as it begins, and takes leave at the end.
    lines = [
        "if [ -f ~/.bashrc ]; then . ~/.bashrc; fi", "exec 2>&3 3>&-", *lines,
        "code=$?", "exec 2>/dev/null", "exit $code",
    ]  # fmt: skip
    return f"exec bash --login -i -c {_packed(lines)} 3>&2 2>/dev/null"


def _packed(lines: Sequence[str]) -> str:
    """A text as one word without a quote in it: it is quoted again for each shell on its way, and
    each of them would make a quote four times as long.
    """
    packed = base64.b64encode("\n".join(lines).encode(errors="surrogateescape")).decode()
    return f'"$(printf %s {packed} | base64 -d)"'


def kept_open(text: str) -> str:
    """Run ``text`` for somebody who looks later: a shell follows, under what was written."""
    return (
        f"sh -c {shlex.quote(text)}; "
        'echo "[ended with exit code $?; this shell is for who looks]"; exec bash --login -i'
    )


def hold(cluster: str, who: str) -> str:
    """Keep the cluster of a head for one launching machine, until stdin ends.

    It says ``held``; or who has it, by exit code `BUSY`. The file is removed at the end, so what
    was locked may be a file that is there no more: then it begins again.
    """
    folder = f'"$HOME"/.nbray/clusters/{cluster}'
    return f"""umask 077
D={folder}
while :; do
  mkdir -p "$D" && exec 9>>"$D/.changed-by" || exit
  flock -n 9 || {{ cat "$D/.changed-by"; exit {BUSY}; }}
  [ "$D/.changed-by" -ef /proc/self/fd/9 ] && break
done
printf '%s\\n' {shlex.quote(who)} >"$D/.changed-by"
echo held
cat >/dev/null 9>&-
rm -f "$D/.changed-by"; rmdir "$D" 2>/dev/null
exit 0
"""


def alone(record: str, text: str, wait_s: int) -> str:
    """Run ``text`` as the only one at work on this host's record; exit code `BUSY` if it is taken.

    The lock is not inherited (``-o``): nodes that are started here would hold it.
    """
    inner = shlex.quote(f'echo "$leader" >"$R/leader"\n{text}')
    return f"""R={record}
export R leader=$$
umask 077; mkdir -p "$R" || exit
exec flock -o -w {wait_s} -E {BUSY} "$R/lock" sh -c {inner} </dev/null
"""


def interrupt(record: str) -> str:
    """End what is at work there, with all that it has started but daemons.

    An interactive bash heeds HUP alone. A TERM that came before would end the command that it waits
    for, and it would go on with the next one.
    """
    return f"""R={record}
if flock -n "$R/lock" true 2>/dev/null; then exit 0; fi
p=$(cat "$R/leader" 2>/dev/null) || exit 0
kill -HUP "-$p" 2>/dev/null
kill -TERM "-$p" 2>/dev/null  # those that ignore HUP
exit 0
"""


def note(record: str, name: str, value: str, before: str = "") -> str:
    """Write a file of the record in one step: ``value``, behind a word that the shell makes."""
    words = f"'%s %s\\n' {before}" if before else "'%s\\n'"
    return (
        f"umask 077; mkdir -p {record} && printf {words} {shlex.quote(value)} "
        f">{record}/.{name} && mv {record}/.{name} {record}/{name}"
    )


def keep_stdin(record: str, name: str) -> str:
    """Write what comes by stdin into a file that nobody else can read: a secret, for example."""
    return (
        f"umask 077; mkdir -p {record} && cat >{record}/.{name} && "
        f"mv {record}/.{name} {record}/{name}"
    )


def make_parents(paths: Sequence[str]) -> str:
    """Make the folders that files are copied into."""
    words = [remote_path(path.rstrip("/").rpartition("/")[0] or "/") for path in paths]
    return f"mkdir -p {' '.join(words)}"


def stop_node(record: str, *, forget: bool, jobs_of: str = "", only: str = "") -> str:
    """End the node of the record by the nbray that started it, and no other.

    Args:
        record: of the host.
        forget: remove the record, too.
        only: an instance; the node of another one goes on.
        jobs_of: a cluster whose jobs of Slurm are then cancelled.
    """
    cancel = ""
    if jobs_of:
        cancel = f"""
if [ -f "$R/python" ]; then
  "$(cat "$R/python")" -P -c 'from nbray.cli import main; main()' slurm cancel {jobs_of} || exit
fi"""
    end = '\nrm -rf "$R"; rmdir "$(dirname "$R")" 2>/dev/null; exit 0' if forget else ""
    other = ""
    if only:
        other = f"""
i=$(cat "$R/instance" 2>/dev/null)
if [ -n "$i" ] && [ "$i" != {shlex.quote(only)} ]; then exit 0; fi"""
    return f"""R={record}{other}
if [ -L "$R/session" ]; then
  p=$(cat "$R/python") || exit
  NBRAY_NODE_RECORD=$R "$p" -P -c 'from nbray.cli import main; main()' stop </dev/null || exit
fi
rm -f "$R/session" "$R/start" "$R/instance" "$R/running"{cancel}{end}
"""


def head_variables(record: str) -> str:
    """What a program on the head needs to be in this cluster: address and interpreter."""
    return f"""R={record}
s=$(readlink "$R/session") || {{ echo "nbray: the head of this cluster does not run" >&2; exit 1; }}
a=$(sed -n 's/.*"gcs_address": "\\([^"]*\\)".*/\\1/p' "$s/session.json")
export NBRAY_ADDRESS="$a" NBRAY_PYTHON="$(cat "$R/python")"
"""
