"""``python -m nbray.dashboard``: the process of the dashboard."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tornado.httputil import HTTPServerRequest
from tornado.routing import Router

from nbray.common.process import allow_many_files, watch_parent
from nbray.common.session import CLIENT_SOCKET, Session
from nbray.state.client import StateClient
from nbray.state.dashboard import Dashboard, serving
from nbray.state.submissions import Submissions

from .gate import Authenticator, Gate
from .jobs import JobsPort
from .jobs_manager import ManagerProcess
from .parts.cluster import Cluster
from .remote_drivers import PATH as CLIENT
from .remote_drivers import RemoteDrivers
from .rest import allow_body, rest
from .server import BoundedServer, PatientListener
from .site import Site, application
from .watcher import Watcher

logger = logging.getLogger(__name__)

_NICE = 5  # a page may be late, a task must not


async def _main(args: argparse.Namespace) -> None:
    session = Session(Path(args.session_dir))
    cluster = session.path.name
    stopped, orphaned = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)

    def leave_with_parent() -> None:
        orphaned.set()
        stopped.set()

    if args.parent_fd is not None:
        watch_parent(loop, args.parent_fd, leave_with_parent)
    listener = PatientListener(fileno=args.listen_fd)
    listener.setblocking(False)
    async with StateClient.of_session(args.gcs_address, session) as client:
        asked = Cluster(client)
        watcher = Watcher(asked, args.url, cluster, session.path / "series")
        place = f"{listener.getsockname()[0]}:{listener.getsockname()[1]}"
        doorkeeper = Authenticator(Dashboard(place, cluster, session.token))
        submissions = Submissions(args.gcs_address, session.token)
        manager = ManagerProcess(session, args.gcs_address, submissions)
        jobs = JobsPort(submissions, manager, doorkeeper)
        secret = session.token + cluster.encode()
        site = Site(asked, watcher, secret, doorkeeper, jobs.details)
        gate = Gate(doorkeeper, _inside(rest(watcher, jobs), application(site)))
        server = BoundedServer(gate, serving(session.path, args.url))
        gate.came_in = server.came_in
        drivers = RemoteDrivers(session.socket_path(CLIENT_SOCKET), server.came_in)
        gate.unjudged = {CLIENT: drivers.application}
        server.add_sockets([listener])
        logger.info("The dashboard serves %s/", Dashboard(args.url, cluster, session.token).base)
        watching = loop.create_task(watcher.run())
        watching.add_done_callback(lambda _task: stopped.set())
        managing = loop.create_task(manager.run())
        managing.add_done_callback(lambda _task: stopped.set())
        await stopped.wait()
        if watching.done():
            watching.result()
        watching.cancel()
        managing.cancel()
        server.stop()
        if orphaned.is_set():  # as the gateway is, at this moment
            await drivers.open.all_gone()
        await asyncio.wait([managing])
        await submissions.close()


def _inside(api: Router, pages: Router) -> Callable[[HTTPServerRequest], Router]:
    """Which application a request that may come in belongs to."""

    def choose(request: HTTPServerRequest) -> Router:
        found: Router
        allow_body(request)
        if request.path.startswith("/api/") or request.path == "/metrics":
            found = api
            return found
        return pages

    return choose


def main() -> None:
    """Serve until SIGTERM, the end of the parent, or a GCS that is silent for a minute."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--gcs-address", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int)
    args = parser.parse_args()
    os.close(args.ready_fd)  # nobody waits for it
    os.nice(_NICE)
    allow_many_files()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("tornado.general").setLevel(logging.ERROR)  # a line for each odd request
    asyncio.run(_main(args))


if __name__ == "__main__":
    main()
