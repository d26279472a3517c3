"""``python -m nbray.autoscaler``: the process, a child of the head node's raylet."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from pathlib import Path

import uvloop

from nbray.autoscaler.config import ScalingConfig, ScalingConfigError
from nbray.autoscaler.providers.base import Cluster, ProviderError
from nbray.autoscaler.service import Autoscaler
from nbray.common.config import Config
from nbray.common.process import leave_in_time, report_ready, watch_parent
from nbray.common.session import GCS, Session
from nbray.wire.credentials import read_identity
from nbray.wire.grpc_service import GrpcClient

_NICE = 5  # a node may come a little later, a task must not


async def _main(args: argparse.Namespace) -> None:
    session = Session(Path(args.session_dir))
    read_identity(session)
    config = Config.from_env()
    patience_s = config.gcs_rpc_server_reconnect_timeout_s
    gcs = GrpcClient(args.gcs_address, session.token, patience_s, session.calls_path(GCS))

    def cluster(given: ScalingConfig) -> Cluster:
        return Cluster(
            name=given.name, address=args.gcs_address, session=str(session.path),
            token_file=str(session.path / "token"), document=given.document, types=given.types,
        )  # fmt: skip

    try:
        autoscaler = Autoscaler(gcs, Path(args.config), cluster, config)
    except (ScalingConfigError, ProviderError) as error:
        report_ready(args.ready_fd, {"error": str(error)})
        raise SystemExit(1) from error
    report_ready(args.ready_fd, {})
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    watch_parent(loop, args.parent_fd, stopped.set)
    running = loop.create_task(autoscaler.run())
    running.add_done_callback(lambda _task: stopped.set())
    await stopped.wait()
    leave_in_time(loop)
    if running.done():
        running.result()
    running.cancel()
    await autoscaler.close()
    await gcs.close()


def main() -> None:
    """Run until SIGTERM, or the end of the raylet that started it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--gcs-address", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(_NICE)
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
