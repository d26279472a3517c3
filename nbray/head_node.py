"""``python -m nbray.head_node nbray.raylet ...``: GCS, raylet and template of a head, in one start.

All three import much the same: this process imports it once and forks the template of the workers
and the GCS, so that much of their memory is shared and two starts are saved. Then it is the raylet,
as its command line says; each fork puts what it would be started by in the place of its own.
Nothing runs before the forks: no thread, no event loop, no connection. A GCS or a template that
ends is started anew by the raylet, in the usual way.
"""

from __future__ import annotations

import gc

gc.disable()  # of what is imported, nothing is garbage

import os  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

from nbray.common.command_line import show_command_line  # noqa: E402
from nbray.common.giving_back import give_memory_back  # noqa: E402
from nbray.common.process import ignore_blocked_notices  # noqa: E402
from nbray.common.session import Session  # noqa: E402
from nbray.gcs import __main__ as gcs  # noqa: E402
from nbray.raylet import __main__ as raylet  # noqa: E402
from nbray.raylet.workers import templates  # noqa: E402


def _become(module: str, arguments: Sequence[str], log: str | Path, kept: set[int]) -> None:
    """Let nothing of the raylet's be held here: others wait for the ends of its pipes."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(output, standard)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:  # that of the listing
                continue
    show_command_line([sys.executable, "-P", "-m", module, *arguments])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _fork_template(session: Session) -> list[str]:
    """Fork a template; returns what the raylet is to know of it.

    It goes on with its imports, and has what it needs of the collector begin when they are done.
    """
    mine, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        theirs.close()
        return ["--template-pid", str(pid), "--template-fd", str(mine.detach())]
    control = theirs.detach()
    arguments = templates.arguments_of(session, control)
    _become(templates.MODULE, arguments, templates.log_of(session), {control})
    variables = templates.environment_of(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    from nbray.core_worker.run import template  # with NumPy, which reads those variables

    sys.argv = [template.__file__, *arguments]
    template.main(arguments)
    raise SystemExit


def main() -> None:
    """Fork a template, and a GCS, which tells its pid, and be the raylet."""
    ignore_blocked_notices()
    _raylet, session, host, port, ready, told, log, *others = sys.argv[1:]
    gc.collect()
    gc.freeze()
    give_memory_back()  # what lies between blocks in use would be copied for each of the three
    # From here on there is something to end before; the raylet takes the signal once it can.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    others += _fork_template(Session(Path(session)))
    gc.enable()
    pid = os.fork()
    if pid == 0:
        # Said by itself: its starter ends it, also if what forked it was killed at this moment.
        os.write(int(told), str(os.getpid()).encode())
        own = ["--session-dir", session, "--host", host, "--port", port, "--ready-fd", ready]
        kept = {int(ready)}
        if "--parent-fd" in others:
            parent = others[others.index("--parent-fd") + 1]
            kept.add(int(parent))
            own += ["--parent-fd", parent]
        _become("nbray.gcs", own, log, kept)
        gcs.main(own)
        return
    os.close(int(ready))
    os.close(int(told))
    raylet.main([*others, "--gcs-pid", str(pid)])


if __name__ == "__main__":
    main()
