"""Ray's GCS is killed under a notebook: what is said, and what is saved.

Needs a Python with nbray and Ray, which ``RAY_NOTEBOOK_PYTHON`` names.
"""

from __future__ import annotations

import psutil
import pytest
from support.ray_kernel import ray_notebook

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]


def test_a_notebook_whose_gcs_was_killed_says_so_and_can_be_saved() -> None:
    with ray_notebook() as notebook:
        notebook.run("import os, ray\nkept = 41\npid = os.getpid()\nref = ray.put(1)")
        pid = int(notebook.run("pid").result)
        assert notebook.run("%%remote\n1 + 1", 120).result == "2"
        port = notebook.run("ray.get_runtime_context().gcs_address").result.strip("'").split(":")[1]
        (gcs,) = [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "gcs_server"
            and f"--gcs_server_port={port}" in (process.info["cmdline"] or ())
        ]
        cell = notebook.run("kept")
        gcs.kill()
        gcs.wait()
        notebook.wait(lambda: "has gone" in cell.printed, "the word that it has gone", 30)
        assert "Ray ends this kernel" in cell.printed and "%nbray stop" in cell.printed
        for code in ("%%remote\n2", "%nbray results"):
            refused = notebook.run(code, 20)
            assert "Ray's GCS at" in refused.error + refused.printed, refused.messages
        left = notebook.run("%nbray stop", 50)
        assert "Left the cluster" in left.printed, left.messages
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(pid).wait(90)  # Ray would have ended it after a minute
        assert notebook.run("kept + 1").result == "42"
