"""``python -m nbray.core_worker.template``: a process whose forks are the node's workers.

It has the imports done and one thread, so that a fork is quick and inherits no lock. It is
the parent of the workers, and so hears how each of them ended.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy

from nbray.common.config import Config
from nbray.common.session import Session
from nbray.core_worker.core import CoreWorker
from nbray.core_worker.current import set_core
from nbray.core_worker.executor import Executor
from nbray.core_worker.output import capture_output
from nbray.core_worker.runtime_envs import enter_variables
from nbray.wire import messages as m

logger = logging.getLogger(__name__)


def _serve(session: Session, raylet_socket: str, control: socket.socket) -> None:
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    woken.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    workers: dict[int, str] = {}
    received = b""
    gc.collect()
    gc.freeze()
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            woken.recv(4096)
            _reap(workers, control)
        if control in readable:
            data = control.recv(65536)
            if not data:
                return
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for sock in (control, woken, wake):
                        sock.close()
                    _become_worker(session, raylet_socket, order)
                workers[pid] = order["fork"]
                _tell(control, {"forked": order["fork"], "pid": pid})


def _reap(workers: dict[int, str], control: socket.socket) -> None:
    while workers:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return
        worker_id = workers.pop(pid)
        _tell(
            control,
            {"exited": worker_id, "pid": pid, "status": status,
             "max_rss_bytes": usage.ru_maxrss * 1024},
        )  # fmt: skip


def _tell(control: socket.socket, report: dict[str, Any]) -> None:
    control.sendall(json.dumps(report).encode() + b"\n")


def _become_worker(session: Session, raylet_socket: str, order: dict[str, Any]) -> None:
    """The child's whole life; it never returns."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor, suffix in ((1, ".out"), (2, ".err")):
            log = os.open(order["log"] + suffix, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, descriptor)
            os.close(log)
        random.seed(time.time_ns() ^ os.getpid())
        numpy.random.seed(int.from_bytes(os.urandom(4), "little"))
        enter_variables(order["env_vars"])
        _run_worker(session, raylet_socket, order)
        status = 0
    except BaseException:
        logger.exception("The worker failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_worker(session: Session, raylet_socket: str, order: dict[str, Any]) -> None:
    worker_id = bytes.fromhex(order["fork"])
    path = session.socket_path(f"w-{worker_id.hex()[:12]}")
    core = CoreWorker(Config.from_env(), session.token, worker_id, path)
    core.peers.start(raylet_socket, order["host"])
    core.runtime_envs.enter(order["env"], order["working_dir"], order["sys_path"])
    core.on_raylet_lost = lambda: os._exit(0)
    set_core(core)
    executor = Executor(core)
    core.on_job = core.runtime_envs.enter_job
    core.reactor.start()
    reply: m.WorkerRegistered = core.peers.request(
        "registered", m.RegisterWorker(core.address, os.getpid())
    )
    core.joined(reply.node_id, reply.arena_path, reply.arena_size)
    output = capture_output(core, order["log"])
    executor.run()
    executor.end()
    output.finish()
    core.tell_last()
    core.peers.stop()


def main() -> None:
    """Run the template until its raylet closes the control socket."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--raylet-socket", required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    control = socket.socket(fileno=args.control_fd)
    _serve(Session(Path(args.session_dir)), args.raylet_socket, control)


if __name__ == "__main__":
    main()
