"""Nodes that join while the GCS is slow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.nodes import join_here
from support.stopping import stand_still

import nbray
from nbray.testing import processes_of, wait_until


@pytest.mark.slow
def test_a_node_joins_when_the_gcs_has_not_answered_its_first_report(cluster: Path) -> None:
    (gcs,) = [p for p in processes_of(cluster) if "nbray.gcs" in p.info["cmdline"]]

    def asks_again() -> bool:
        logs = cluster.glob("*/logs/raylet.log")
        return any("is asked again" in log.read_text() for log in logs)

    stand_still(gcs.pid)
    try:
        with ThreadPoolExecutor(1) as thread:
            joining = thread.submit(join_here)
            wait_until(lambda: joining.done() or asks_again(), "the second question", 60)
            gcs.resume()
            node = joining.result(60)
    finally:
        gcs.resume()
    wait_until(lambda: sum(row["Alive"] for row in nbray.nodes()) == 2, "both nodes", 30)
    node.stop()
