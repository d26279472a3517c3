"""``python -m nbray.gcs``: the process of the GCS."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from nbray.common.background import keep_on
from nbray.common.config import Config
from nbray.common.process import (
    allow_many_files,
    give_answers_back,
    leave,
    leave_in_time,
    report_ready,
    watch_parent,
)
from nbray.common.session import GCS, Session
from nbray.gcs.server import GcsServer
from nbray.gcs.storage import StorageError, open_store
from nbray.wire.credentials import read_identity
from nbray.wire.grpc_service import serve
from nbray.wire.near_calls import serve_near

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0


async def _main(args: argparse.Namespace) -> None:
    session = Session(Path(args.session_dir))
    token = session.token
    read_identity(session)
    try:
        store = open_store(session.storage, session.path)
        gcs = GcsServer(token, Config.from_env(), store, session.calls_path)
        server, port = await serve(args.host, args.port, token, gcs.services())
        near = serve_near(session.calls_path(GCS), token, gcs.services())
        gcs.tell_near = near.tell
    except (OSError, StorageError, ValueError) as error:
        report_ready(args.ready_fd, {"error": f"The GCS could not start: {error}."})
        raise SystemExit(1) from error
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    store.on_broken = lambda _reason: stopped.set()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    if args.parent_fd is not None:
        watch_parent(loop, args.parent_fd, stopped.set)
    await gcs.resume()
    report_ready(args.ready_fd, {"port": port})
    figures = partial(_keep_figures, gcs, session.path / "series")
    endless: list[Callable[[], Coroutine[Any, Any, None]]] = [
        gcs.nodes.health.run,
        gcs.packages.watch,
        figures,
    ]
    watching = [loop.create_task(keep_on(work)) for work in endless]
    await stopped.wait()
    leave_in_time(loop)
    for task in watching:
        task.cancel()
    near.close()
    await server.stop(None)
    await store.close()


async def _keep_figures(gcs: GcsServer, folder: Path) -> None:
    """Those over time, as soon as there is a place for them: a disk may be full for a while."""
    failing = False
    while True:
        try:
            series = gcs.series(folder)
            break
        except OSError as error:
            if not failing:
                logger.warning("There are no figures for the dashboard's graphs yet: %s", error)
            failing = True
            await asyncio.sleep(_AGAIN_S)
    await series.run()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the GCS until SIGTERM or the end of its parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    allow_many_files()
    give_answers_back()
    uvloop.run(_main(parser.parse_args(arguments)))
    leave()


if __name__ == "__main__":
    main()
