"""``python -m nbray.raylet``: the process of a raylet."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import uvloop

from nbray.common.addresses import split
from nbray.common.config import Config
from nbray.common.process import (
    allow_many_files,
    end_fork,
    give_large_blocks_back,
    ignore_blocked_notices,
    leave,
    leave_in_time,
    report_ready,
    watch_parent,
)
from nbray.common.resources import to_units
from nbray.common.session import GCS, Session
from nbray.raylet.beside.autoscaler import AutoscalerSupervisor
from nbray.raylet.beside.client_port import ClientPort
from nbray.raylet.beside.dashboard import DashboardSupervisor
from nbray.raylet.beside.gcs import GcsSupervisor
from nbray.raylet.beside.supervisors import Supervisors
from nbray.raylet.server import Raylet
from nbray.raylet.workers.templates import ForkedTemplate
from nbray.wire import gcs_messages as g
from nbray.wire.aio import serve_tcp, serve_unix
from nbray.wire.credentials import read_identity
from nbray.wire.grpc_service import GrpcClient, RefusedError, RpcError, serve
from nbray.wire.near_calls import serve_near
from nbray.wire.state_messages import DashboardAddress
from nbray.wire.tls import Tls

# A GCS that was killed is back by then; who gave a wrong address does not wait long. A GCS that is
# there and slow, as on a busy machine, has most of the time in which this process has to be up.
_FIRST_REPORT_S = 5.0
_OF_START = 0.75
_KNOCK_S = 3.0


def _resources(args: argparse.Namespace) -> dict[str, int]:
    """What the node has, and by Ray's names the node itself, which programs ask a part of."""
    own = {f"node:{args.node_ip}": 1.0}
    if args.head:
        own["node:__internal_head__"] = 1.0
    return {**json.loads(args.resources), **to_units(own)}


def _address(args: argparse.Namespace) -> str:
    """Where the GCS is; this process had its imports done while the GCS came up, if both start."""
    if args.gcs_address:
        return str(args.gcs_address)
    with open(args.gcs_address_fd) as told:
        address = told.read()
    if not address:
        raise SystemExit("The GCS of this node did not start.")
    return address


class _NotUpError(Exception):
    """The raylet did not come up; the text is for who started it."""


class _Node:
    """The raylet of a node, what it listens on, and how it reaches the GCS."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.session = Session(Path(args.session_dir))
        self.address = _address(args)
        read_identity(self.session)
        self.config = Config.from_env()
        self._args = args
        self._tls = Tls.of(self.session.path)
        patience_s = self.config.gcs_rpc_server_reconnect_timeout_s
        self.gcs = GrpcClient(
            self.address, self.session.token, patience_s, self.session.calls_path(GCS)
        )
        self.raylet = Raylet(
            self.session, args.node_ip, self.gcs, _resources(args), args.object_store_memory,
            args.head, self.config, _spill_folder(args, self.session), json.loads(args.labels),
            self._tls,
        )  # fmt: skip
        self._listens = AsyncExitStack()

    async def start(self) -> dict[str, Any]:
        """Listen, and be in the GCS's table; returns where the raylet is, for who started it.

        Raises:
            _NotUpError: it cannot listen, or no GCS takes it in.
        """
        raylet = self.raylet
        raylet.start_workers(_forked_template(self._args))
        try:
            await self._listen()
        except OSError as error:
            raise _NotUpError(f"The raylet cannot listen: {error}") from error
        await self._be_taken_in()
        return {
            "node_id": raylet.node_id.hex(),
            "socket": raylet.socket_path,
            "frame_port": raylet.frame_port,
            "grpc_port": raylet.grpc_port,
        }

    async def _be_taken_in(self) -> None:
        deadline = time.monotonic() + _OF_START * self.config.start_timeout_s
        while True:
            report = g.Report(self.raylet.row())
            try:
                reply = await self.gcs.call("Report", report, g.Reported, _FIRST_REPORT_S)
                self.raylet.taken_in(reply)
                return
            except RefusedError as error:
                raise _NotUpError(str(error)) from error
            except RpcError as error:
                if time.monotonic() > deadline or not await _somebody_listens(self.address):
                    raise _NotUpError(f"No GCS answers at {self.address}: {error}") from error
                logging.warning("The GCS at %s is asked again: %s", self.address, error)

    async def _listen(self) -> None:
        raylet, token, closing = self.raylet, self.session.token, self._listens.callback
        host, services = self._args.node_ip, self.raylet.services()
        unix = serve_unix(raylet.socket_path, token, raylet)
        closing(unix.close)
        tcp = serve_tcp(
            host, self.config.object_manager_port, token, raylet, raylet.take_bulk, self._tls
        )
        closing(tcp.close)
        raylet.frame_port = tcp.port
        server, raylet.grpc_port = await serve(host, self.config.node_manager_port, token, services)
        self._listens.push_async_callback(server.stop, None)
        near = serve_near(self.session.calls_path(raylet.node_id.hex()), token, services)
        closing(near.close)

    async def close(self) -> None:
        """Listen no longer."""
        await self._listens.aclose()


async def _somebody_listens(address: str) -> bool:
    try:
        async with asyncio.timeout(_KNOCK_S):
            _, writer = await asyncio.open_connection(*split(address))
    except OSError:  # a timeout too
        return False
    writer.close()
    return True


async def _main(args: argparse.Namespace, forks: ExitStack) -> None:
    """Be the raylet; ``forks`` ends what was forked for it, should it not come up."""
    loop = asyncio.get_running_loop()
    stopped, asked = asyncio.Event(), asyncio.Event()
    starting = asyncio.current_task()

    def leave() -> None:
        asked.set()
        stopped.set()
        if starting is not None:
            starting.cancel()

    # Until here a signal waited, and from here on none ends this process before its children.
    loop.add_signal_handler(signal.SIGTERM, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with forks:
        node = _Node(args)
        try:
            place = await node.start()
        except (_NotUpError, asyncio.CancelledError) as error:
            starting = None
            node.raylet.stop()
            await node.close()
            forks.close()
            said = str(error) or "It was ended while it started."
            report_ready(args.ready_fd, {"error": said})  # who hears of it finds nothing left
            raise SystemExit(1) from error
        report_ready(args.ready_fd, place)
        starting = None
        forks.pop_all()
    if args.parent_fd is not None:
        watch_parent(loop, args.parent_fd, leave)
    raylet, gcs = node.raylet, node.gcs
    reporting = loop.create_task(raylet.report())
    reporting.add_done_callback(lambda _task: stopped.set())
    if args.autoscaling_config is not None:
        raylet.may_grow()
    of_gcs, others = _supervisors(args, node)
    await stopped.wait()
    leave_in_time(loop)
    reporting.cancel()
    of_gcs.look_away()
    others.look_away()
    others.stop()
    raylet.stop()
    try:
        await gcs.call("Report", g.Report(raylet.row(alive=False)), g.Reported, 0.5)
    except RpcError as error:
        logging.info("The GCS was not told that this node leaves: %s", error)
    await gcs.close()  # nobody is to look for a GCS that ends, too
    of_gcs.stop()
    if args.gcs_pid is not None and args.parent_fd is not None and asked.is_set():
        end_fork(args.gcs_pid)  # it would, too, and nobody else may reap it
    await node.close()


def _forked_template(args: argparse.Namespace) -> ForkedTemplate | None:
    if args.template_pid is None:
        return None
    return ForkedTemplate(args.template_pid, args.template_fd)


def _supervisors(args: argparse.Namespace, node: _Node) -> tuple[Supervisors, Supervisors]:
    """That of the GCS, which ends last, and the others; all of them run."""
    session, address, config, gcs = node.session, node.address, node.config, node.gcs
    of_gcs, others = Supervisors(), Supervisors()
    if args.gcs_pid is not None:
        of_gcs.start(GcsSupervisor(session, address, args.gcs_pid, args.parent_fd, config))
    if args.autoscaling_config is not None:
        others.start(AutoscalerSupervisor(session, address, args.autoscaling_config, config))
    if args.dashboard_fd is not None:
        listener, url = args.dashboard_fd, args.dashboard_url

        async def tell() -> bool:
            try:
                await gcs.call("SetDashboard", DashboardAddress(url, session.path.name), g.Empty)
            except RpcError as error:
                logging.info("The GCS was not told where the dashboard is: %s", error)
                return False
            return True

        at_once = args.dashboard_at_once
        others.start(DashboardSupervisor(session, address, listener, url, at_once, tell))
    if args.client_fd:
        others.start(ClientPort(session, args.client_fd, config))
    return of_gcs, others


def _spill_folder(args: argparse.Namespace, session: Session) -> Path:
    named = args.object_spilling_directory or os.environ.get("NBRAY_SPILL_DIR")
    return Path(named) if named else session.path / "spilled"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a raylet until SIGTERM, the end of its parent, or the loss of the GCS."""
    ignore_blocked_notices()
    parser = argparse.ArgumentParser(fromfile_prefix_chars="@")  # see nbray.launcher.local
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--node-ip", default="127.0.0.1")
    parser.add_argument("--gcs-address")
    parser.add_argument("--gcs-address-fd", type=int, help="Where it is told once the GCS is up.")
    parser.add_argument("--resources", required=True)
    parser.add_argument("--object-store-memory", type=int, required=True)
    parser.add_argument("--object-spilling-directory")
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--gcs-pid", type=int, help="Start the GCS again when this process ends.")
    parser.add_argument("--template-pid", type=int, help="It was forked before.")
    parser.add_argument("--template-fd", type=int, help="This side of its control socket.")
    parser.add_argument("--dashboard-fd", type=int, help="The socket on which it listens.")
    parser.add_argument("--dashboard-url", default="")
    parser.add_argument("--dashboard-at-once", action="store_true", help="Before anybody looks.")
    parser.add_argument("--labels", default="{}")
    parser.add_argument("--autoscaling-config", help="Run an autoscaler with this file.")
    parser.add_argument("--client-fd", type=int, action="append", help="Remote drivers come here.")
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    allow_many_files()
    give_large_blocks_back()
    args = parser.parse_args(arguments)
    forks = ExitStack()
    for pid in (args.gcs_pid, args.template_pid):
        if pid is not None:  # who started the node may have been killed, and end nothing
            forks.callback(end_fork, pid)
    uvloop.run(_main(args, forks))
    leave()


if __name__ == "__main__":
    main()
