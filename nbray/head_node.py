"""``python -m nbray.head_node nbray.raylet ...``: the GCS and the raylet of a head, in one start.

Both import much the same: this process imports it once and forks the GCS, so that half of their
memory is shared and the second start is saved. Then it is the raylet, as its command line says; the
fork puts what a GCS is started by in the place of its own. Nothing runs before the fork: no thread,
no event loop, no connection. A GCS that ends is started anew by the raylet, in the usual way.
"""

from __future__ import annotations

import gc

gc.disable()  # of what is imported, nothing is garbage

import os  # noqa: E402
import sys  # noqa: E402

from nbray.common.command_line import show_command_line  # noqa: E402
from nbray.gcs import __main__ as gcs  # noqa: E402
from nbray.raylet import __main__ as raylet  # noqa: E402


def _become_gcs(arguments: list[str], log: str, kept: set[int]) -> None:
    """Let nothing of the raylet's be held here: its starter waits for the ends of its pipes."""
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
    show_command_line([sys.executable, "-P", "-m", "nbray.gcs", *arguments])


def main() -> None:
    """Fork a GCS, which tells its pid, and be the raylet."""
    _raylet, session, host, port, ready, told, log, *others = sys.argv[1:]
    gc.collect()
    gc.freeze()
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
        _become_gcs(own, log, kept)
        gcs.main(own)
        return
    os.close(int(ready))
    os.close(int(told))
    raylet.main([*others, "--gcs-pid", str(pid)])


if __name__ == "__main__":
    main()
