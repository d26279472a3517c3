"""What DESIGN promises to a person in a notebook, in a real kernel; docs/notebook.md lists all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.kernel import (
    Cell,
    Notebook,
    is_panel,
    one_kernel_for_most,
    running_kernel,
    running_notebook,
    shared_notebook,
)
from support.stopping import stand_still

from nbray.testing import processes_of, wait_until

__all__ = ["one_kernel_for_most", "shared_notebook"]


def bundles(cell: Cell) -> list[dict[str, Any]]:
    """What a cell displays, but for its panel, which a slow machine shows."""
    return [
        content["data"]
        for name, content in cell.messages
        if name in ("display_data", "execute_result") and not is_panel(content)
    ]


# --- 5.1: rich display ------------------------------------------------------------------------


def test_5_1_frames_plots_and_widgets_of_tasks_are_shown_without_their_worker(
    notebook: Notebook,
) -> None:
    cell = notebook.run(
        "import nbray\n@nbray.remote\ndef show():\n"
        "    import ipywidgets, pandas as pd\n    from bokeh.plotting import figure\n"
        "    from IPython.display import display\n"
        "    display(pd.DataFrame({'n': [1, 2], 'share': [0.25, 0.75]}))\n"
        "    plot = figure(height=200)\n    plot.line([1, 2], [3, 4])\n    display(plot)\n"
        "    display(ipywidgets.IntSlider(value=7, description='level'))\n"
        "nbray.get(show.remote())",
        timeout=60,
    )
    assert not cell.error
    notebook.wait(lambda: len(bundles(cell)) == 3, "all three: behind a large plot they come late")
    _check_rich(bundles(cell))


def test_5_1_the_last_value_of_a_remote_cell_is_drawn_as_a_task_draws_it(
    notebook: Notebook,
) -> None:
    made = [
        "import pandas as pd\npd.DataFrame({'n': [1, 2], 'share': [0.25, 0.75]})",
        "from bokeh.plotting import figure\np = figure(height=200); p.line([1, 2], [3, 4])\np",
        "import ipywidgets\nipywidgets.IntSlider(value=7, description='level')",
    ]
    cells = [notebook.run(f"%%remote -o none\nnone = 0\n{code}", timeout=60) for code in made]
    _check_rich([bundle for cell in cells for bundle in bundles(cell)])
    figure = notebook.run(
        "%%remote -o none\nnone = 0\nimport matplotlib.pyplot as plt\n"
        "figure, axes = plt.subplots()\naxes.plot([1, 2])\nfigure",
        timeout=60,
    )
    assert ["image/png" in bundle for bundle in bundles(figure)] == [True]


def _check_rich(shown: list[dict[str, Any]]) -> None:
    frame, plot, slider = shown
    assert "0.75" in frame["text/plain"] and "<table" in frame["text/html"]
    assert plot["text/html"].startswith("<iframe srcdoc=")
    assert "IntSlider(value=7" in slider["text/plain"]
    assert "A widget&#x27;s state when it was shown" in slider["text/html"]
    assert "application/vnd.jupyter.widget-view+json" not in slider


# --- 5.6 and the cluster widget ---------------------------------------------------------------


def test_a_widget_says_when_its_cluster_or_its_kernel_has_gone(notebook: Notebook) -> None:
    """No figure is left that looks like those of now; the picture for later says when it was."""
    status = notebook.run("%nbray status")
    assert "As it was at " in status.result
    notebook.run("from nbray.jupyter_ext.widgets.cluster_widget import shared_feed")
    told = notebook.run("shared_feed._end()")
    texts = [
        content["data"].get("state", {}).get("value", "")
        for name, content in told.messages
        if name == "comm_msg"
    ]
    assert any("The kernel that fed this has ended" in text for text in texts)
    notebook.run("%nbray stop")
    assert "in no cluster" in notebook.run("shared_feed.snapshot().error").result


def test_widgets_share_one_subscription_that_rests_while_none_is_shown(notebook: Notebook) -> None:
    notebook.run(
        "import threading, time\n"
        "from nbray.jupyter_ext.widgets.cluster_widget import ClusterWidget, shared_feed\n"
        "def feeds():\n"
        "    return sum(thread.name == 'nbray-feed' for thread in threading.enumerate())\n"
        "first, second = ClusterWidget(), ClusterWidget()\n"
        "shots = []"
    )
    assert notebook.run("feeds(), shared_feed.running").result == "(0, False)"
    notebook.run(
        "first._view_count = 1; second._view_count = 2\nshared_feed.subscribe(shots.append)"
    )
    assert notebook.run("feeds()").result == "1"
    took = notebook.run(
        "began, seen = time.monotonic(), len(shots)\n"
        "while len(shots) < seen + 4: time.sleep(0.01)\n"
        "4 / (time.monotonic() - began)"
    )
    assert 0.2 < float(took.result) < 3.0, "it asks twice a second, less on a loaded machine"
    notebook.run("shared_feed.unsubscribe(shots.append)\nfirst._view_count = 0")
    assert notebook.run("feeds()").result == "1"
    notebook.run("second._view_count = None")
    notebook.wait(lambda: notebook.run("feeds()").result == "0", "the end of the feed")
    notebook.run("first.close(); second.close()")


# --- 5.7 --------------------------------------------------------------------------------------


def test_5_7_refs_are_awaited_and_nobody_has_touched_the_event_loop(notebook: Notebook) -> None:
    notebook.run("import asyncio, nbray\n@nbray.remote\ndef double(x):\n    return x * 2")
    cell = notebook.run(
        "await double.remote(4), await asyncio.gather(*[double.remote(i) for i in range(3)])"
    )
    assert cell.result == "(8, [0, 2, 4])"
    where = notebook.run(
        "loop = asyncio.get_running_loop()\n"
        "asyncio.run.__module__, type(loop).run_until_complete.__module__, "
        "'nest_asyncio' in __import__('sys').modules"
    )
    assert where.result == "('asyncio.runners', 'asyncio.base_events', False)"
    started = notebook.start("await asyncio.wait_for(double.remote(10), 30)")
    notebook.wait(lambda: started.idle, "the value")
    assert started.result == "20"


# --- 5.8 --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_5_8_a_kernel_that_is_restarted_or_killed_leaves_nothing(session_root: Path) -> None:
    for how in ("restart", "kill", "kill"):
        with running_notebook() as notebook:
            notebook.run(
                "import nbray, time\nnap = nbray.remote(time.sleep)\n"
                "refs = [nap.remote(60) for _ in range(4)]\n%remote --actor desk -- 1"
            )
            assert processes_of(session_root)
            if how == "restart":
                notebook.manager.restart_kernel(now=True)
            else:
                os.kill(notebook.manager.provisioner.pid, signal.SIGKILL)  # type: ignore[union-attr]
            wait_until(lambda: not processes_of(session_root), "the end of the cluster", timeout=60)
    # A start deletes what the killed left on the disk, but for the newest logs.
    left = list(session_root.iterdir())
    assert len(left) <= 2
    with running_notebook() as notebook:
        assert set(left) & set(session_root.iterdir()) == {max(left)}
        notebook.run("%nbray stop")
    shutil.rmtree(max(left))


# --- section 7 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("%nbray start --object-store-memory 900TB", "all memory of this machine"),
        ("import os; os.environ['NBRAY_TMPDIR'] = '/proc/none'\n%nbray start", "'/proc/none'"),
        ("%nbray attach 127.0.0.1:1", "Could not find any running nbray cluster at '127.0.0.1:1'"),
    ],
)
def test_a_start_that_fails_says_why_within_seconds(
    session_root: Path, line: str, cause: str
) -> None:
    with running_kernel() as notebook:
        notebook.run("%load_ext nbray")
        began = time.monotonic()
        cell = notebook.run(line)
        assert time.monotonic() - began < 15
        assert cell.printed.startswith("UsageError: %nbray ") and cause in cell.printed


def test_a_task_that_can_never_run_says_so_in_its_cell_and_in_the_widget(
    notebook: Notebook,
) -> None:
    notebook.run("import nbray\n@nbray.remote(resources={'gold': 1})\ndef never(): pass")
    cell = notebook.run("refs = [never.remote()]")
    notebook.wait(lambda: "No node of the cluster can ever serve" in cell.printed, "the warning")
    other = notebook.run("1")
    assert "which lacks {'gold': 1.0}" in cell.printed and "ever serve" not in other.printed
    notebook.run(
        "from nbray.jupyter_ext.widgets.cluster_view import work_html\n"
        "from nbray.jupyter_ext.widgets.cluster_widget import shared_feed"
    )
    notebook.wait(
        lambda: "which lacks" in notebook.run("print(work_html(shared_feed.snapshot()))").printed,
        "the reason in the widget",
    )
    notebook.run("nbray.cancel(refs[0])")


def test_what_can_never_run_is_told_in_the_cell_that_submitted_it(
    session_root: Path, tmp_path: Path
) -> None:
    task = "serve {'CPU': 1.0, 'gold': 1.0}"
    submitted = {
        "refs = [never.remote()]": task,
        "more = [never.remote()]": task,
        "far = Far.remote()": "Actor Far: No node of the cluster can ever serve",
        "group = placement_group([{'gold': 1}])": "Placement group ",
        "nested = outer.remote()": task,
    }
    with running_notebook() as notebook:
        notebook.run(
            "import nbray, os, time\nfrom nbray.util import placement_group\n"
            "@nbray.remote(resources={'gold': 1})\ndef never(): pass\n"
            "@nbray.remote(resources={'gold': 1})\nclass Far: pass\n"
            "@nbray.remote(num_cpus=0)\ndef outer(): return [never.remote()]"
        )
        cluster = [
            process.pid
            for process in processes_of(session_root)
            if {"nbray.raylet", "nbray.gcs"} & {*process.info["cmdline"]}
        ]
        assert len(cluster) == 2
        for pid in cluster:
            stand_still(pid)
        cells = [notebook.run(code) for code in submitted]
        gate = str(tmp_path / "gate")
        last = notebook.start(
            f"print('it runs')\nwhile not os.path.exists({gate!r}): time.sleep(0.01)"
        )
        notebook.wait(lambda: "it runs" in last.printed, "the last cell")
        for pid in cluster:
            os.kill(pid, signal.SIGCONT)

        def all_told() -> bool:
            return all(
                said in cell.printed for cell, said in zip(cells, submitted.values(), strict=True)
            )

        notebook.wait(all_told, "each warning in its cell")
        (tmp_path / "gate").touch()
        notebook.wait(lambda: last.idle, "the end of the last cell")
        assert last.printed == "it runs\n", last.printed


def test_a_worker_that_died_is_reported_with_facts_at_the_users_line(notebook: Notebook) -> None:
    cell = notebook.run(
        "import nbray, os, sys\n@nbray.remote(max_retries=0)\ndef dies():\n"
        "    print('about to go', file=sys.stderr)\n    os.kill(os.getpid(), 9)\n"
        "nbray.get(dies.remote())"
    )
    assert cell.error.startswith("WorkerCrashedError")
    assert "ended with signal SIGKILL" in cell.error and "about to go" in cell.error
    assert f"Cell {cell.label}, line 6, in <module>\n    nbray.get(dies.remote())" in cell.error
    assert "/nbray/" not in cell.error


# --- where there is no notebook ---------------------------------------------------------------


def test_in_a_terminal_everything_is_text(session_root: Path, tmp_path: Path) -> None:
    script = [
        "%load_ext nbray",
        "%nbray start --head --num-cpus 2",
        "import nbray, time",
        "nap = nbray.remote(time.sleep)",
        "print(len(nbray.get([nap.remote(0.8) for _ in range(6)])))",
        "%remote print('from a worker')",
        "nbray.put({'a': 1})",
        "%nbray status",
        "%nbray stream In[5]",
        "%nbray stream --zoom",
        "%nbray stop",
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"],
        input="\n".join(script) + "\n", capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode == 0
    for text in (
        "1 node",
        "6\n",
        "from a worker",
        "<ObjectRef: ready, dict of 1",
        "CPU: 2 of 2 free",
        "Tasks of In [5], 2 workers",
        "|████",
        "nbray is stopped.",
    ):
        assert text in ended.stdout, text  # fmt: skip
    assert "6/6" in ended.stderr
    assert "<div" not in ended.stdout and "<svg" not in ended.stdout
