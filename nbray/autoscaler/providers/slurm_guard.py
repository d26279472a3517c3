"""What is left of a cluster with nodes from Slurm when its head has gone, however it went.

``python -m nbray.autoscaler.providers.slurm_guard`` waits for the end of a head's raylet, and then
cancels the cluster's jobs: running ones would find out within a minute, but those that wait in the
queue would start for nobody. A head whose session folder is still there may be brought back
(``nbray start --head --session``), so it is waited for as long as nodes wait for their GCS.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import select
import time
from pathlib import Path

import psutil

from nbray.common.config import Config
from nbray.common.session import Session
from nbray.launcher.found import node_of
from nbray.slurm.commands import SlurmError
from nbray.slurm.homes import ClusterHome
from nbray.slurm.leaving import cancel_cluster

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_ASK_AGAIN_S = 30.0
_TRIES = 20


def main() -> None:
    """Wait for the end of the head, and cancel."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.close(args.ready_fd)  # nobody waits for it
    home, session = ClusterHome(args.name), Path(args.session_dir)
    with open(home.path / "guard", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # another one is there
        patience_s = Config.from_env().gcs_rpc_server_reconnect_timeout_s
        while (raylet := _raylet(session, patience_s)) is not None:
            select.select([raylet], [], [])
            os.close(raylet)
        if home.is_held_by(session):
            _cancel(home)


def _raylet(session: Path, patience_s: float) -> int | None:
    """A descriptor of the raylet that a session has; None if it has none for so long."""
    deadline = time.monotonic() + patience_s
    while session.exists() and time.monotonic() < deadline:
        for process in node_of(Session(session)).processes:
            try:
                if "nbray.raylet" in process.cmdline():
                    return os.pidfd_open(process.pid)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        time.sleep(_LOOK_S)
    return None


def _cancel(home: ClusterHome) -> None:
    for _ in range(_TRIES):
        try:
            count = cancel_cluster(home)
        except SlurmError as error:
            logger.warning("The jobs of cluster %s are not cancelled yet: %s", home.name, error)
            time.sleep(_ASK_AGAIN_S)
        else:
            logger.info("%d jobs of cluster %s were cancelled", count, home.name)
            return


if __name__ == "__main__":
    main()
