"""``python -m nbray.jobs``: the process of the job manager."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from pathlib import Path

import nbray
from nbray.common.config import Config
from nbray.common.process import watch_parent
from nbray.common.session import GCS, Session
from nbray.driver.joining import OWN_SESSION
from nbray.jobs.manager import JobManager
from nbray.state.submissions import OWN_NAMESPACE, Submissions
from nbray.wire.credentials import read_identity

logger = logging.getLogger(__name__)


async def _main(args: argparse.Namespace) -> None:
    session = Session(Path(args.session_dir))
    read_identity(session)
    submissions = Submissions(args.gcs_address, session.token, session.calls_path(GCS))
    head = session.read_info()["node_id"]
    manager = JobManager(submissions, args.gcs_address, head, Config.from_env())
    loop = asyncio.get_running_loop()
    running = loop.create_task(manager.run())

    def leave() -> None:
        running.cancel()

    loop.add_signal_handler(signal.SIGTERM, leave)
    if args.parent_fd is not None:
        watch_parent(loop, args.parent_fd, leave)
    try:
        await running
    except asyncio.CancelledError:
        logger.info("The job manager leaves; another will go on.")
    await submissions.close()


def main() -> None:
    """Care for jobs until there are none, SIGTERM, or the end of the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--gcs-address", required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int)
    args = parser.parse_args()
    os.close(args.ready_fd)  # nobody waits for it
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.environ[OWN_SESSION] = args.session_dir  # the head's raylet, whatever else runs here
    nbray.init(address=args.gcs_address, namespace=OWN_NAMESPACE, log_to_driver=False)
    asyncio.run(_main(args))


if __name__ == "__main__":
    main()
