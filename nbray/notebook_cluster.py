"""The cluster behind a notebook, as its kernel sees it; the rest is `notebook_engine`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbray
from nbray.driver import local_nodes
from nbray.driver.context import NbrayContext
from nbray.driver.driver import current_driver
from nbray.driver.joining import OWN_SESSION
from nbray.driver.membership import cluster_now, membership
from nbray.driver.scaling import scaling_now, set_bounds
from nbray.notebook import Cluster, DemandState, Nodes
from nbray.state import local_state
from nbray.state.lists import list_demand
from nbray.state.logs import find_worker

_START = "from nbray.cli import main; main()"
_ADDRESS = re.compile(r"cluster (\S+:\d+)")


class _Nodes:
    added = staticmethod(local_nodes.added_nodes)
    add = staticmethod(local_nodes.add_node)
    remove = staticmethod(local_nodes.remove_node)


class _Cluster:
    nodes: Nodes = _Nodes()
    context_type: type = NbrayContext
    command = "nbray"
    membership = staticmethod(membership)
    now = staticmethod(cluster_now)
    worker = staticmethod(find_worker)
    start = staticmethod(local_nodes.start_here)
    join = staticmethod(local_nodes.join_from_here)

    scaling = staticmethod(scaling_now)
    set_bounds = staticmethod(set_bounds)

    def name(self) -> str:
        if not nbray.is_initialized():
            return ""
        worker_id: str = nbray.get_runtime_context().get_worker_id()
        return worker_id

    def demand(self, timeout: int) -> list[DemandState]:
        return list_demand(timeout=timeout)

    def logs(self) -> Path:
        return local_state.session_dir() / "logs"

    def context(self) -> NbrayContext:
        driver = current_driver()
        assert driver is not None, "only a kernel that is in a cluster asks"
        return driver.context

    def for_programs(self) -> dict[str, str]:
        return {OWN_SESSION: str(local_state.session_dir())}

    def start_detached(self, words: Sequence[str]) -> str:
        ended = subprocess.run(
            [sys.executable, "-c", _START, "start", *words],
            capture_output=True, text=True, check=False, start_new_session=True,
        )  # fmt: skip
        found = _ADDRESS.search(ended.stdout)
        if ended.returncode or found is None:
            raise RuntimeError(ended.stderr.strip() or ended.stdout.strip())
        return found[1]


CLUSTER: Cluster = _Cluster()
