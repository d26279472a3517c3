"""`%nbray`'s looks at the cluster, and completion, in a real kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.kernel import Notebook, notebook, running_kernel, running_notebook

from nbray.jupyter_ext.commands.table import COMMANDS

__all__ = ["notebook"]


def test_commands_show_what_the_cluster_is_doing(notebook: Notebook) -> None:
    notebook.run("import nbray\n@nbray.remote\ndef task():\n    print('in the task')\n")
    notebook.run("nbray.get([task.remote() for _ in range(3)])")
    notebook.run("nbray.get(task.remote())")
    notebook.run("%%remote --actor desk --num-cpus 0.5\nprint('at the desk')")
    actors = notebook.run("%nbray actors").result
    assert "desk" in actors and "ALIVE" in actors and "CPU 0.5" in actors
    identity = actors.splitlines()[1].split()[0]
    assert identity in notebook.run(f"%nbray actors {identity}").result
    assert "No actor is called 'nobody'" in notebook.run("%nbray actors nobody").result
    tasks = [line.split() for line in notebook.run("%nbray tasks").result.splitlines()]
    assert ["task", "4", "0", "0", "4", "0", "0"] in tasks, "of both cells"
    workers = notebook.run("%nbray workers").result
    assert "actor" in workers and "driver" in workers
    assert "alive" in notebook.run("%nbray nodes").result
    assert "RUNNING" in notebook.run("%nbray jobs").result, "this driver"
    assert "raylet.log" in notebook.run("%nbray logs").result
    assert "at the desk" in notebook.run("%nbray logs desk").printed
    assert "in the task" in notebook.run("%nbray logs worker --grep task").printed
    assert "Did you mean raylet.log?" in notebook.run("%nbray logs raylt").printed
    assert "no worker of the cluster has pid 1." in notebook.run("%nbray logs 1").printed
    notebook.run("import nbray\nnbray.kill(nbray.get_actor('desk'))")
    notebook.wait(
        lambda: "desk" not in notebook.run("%nbray actors").result, "the end of the actor"
    )
    assert "DEAD" in notebook.run("%nbray actors desk --all").result


def test_help_lists_every_command(notebook: Notebook) -> None:
    shown = notebook.run("%nbray").result
    for command in ("start", "attach", "status", "stop", "nodes", "actors", "tasks", "objects",
                    "logs", "tb", "config", "scale", "timeline", "dashboard"):  # fmt: skip
        assert f"%nbray {command} " in shown
        assert notebook.run(f"%nbray help {command}").printed.startswith("usage:")


def test_completion_knows_words_options_and_live_names(notebook: Notebook) -> None:
    notebook.run("%remote --actor deskname -- 1")
    assert "status" in notebook.complete("%nbray sta")
    assert "--num-cpus" in notebook.complete("%nbray start --num")
    assert "deskname" in notebook.complete("%nbray actors desk")
    assert "deskname" in notebook.complete("%%remote --actor desk")
    assert "--on-interrupt" in notebook.complete("%%remote --on-")
    assert "interrupt_grace" in notebook.complete("%nbray config inter")
    assert "raylet.log" in notebook.complete("%nbray logs rayl")


def test_completion_behind_our_magics_offers_what_may_stand_there_and_nothing_else(
    notebook: Notebook,
) -> None:
    """Python's names, IPython's magics and files mean nothing there."""
    options = notebook.complete("%nbray start --")
    assert "--head" in options and all(name.startswith("--") for name in options)
    assert options == notebook.complete("import math\n  %nbray start --")
    assert set(notebook.complete("%nbray ")) == {*COMMANDS, "help"}
    assert "--head" not in notebook.complete("%nbray start --head --")
    assert "--noblock" in notebook.complete("%%remote --")
    behind = notebook.complete("%%remote --noblock --")
    assert "--gather" in behind and all(name.startswith("--") for name in behind)
    assert notebook.complete("%nbray config on_interrupt ") == ["--help", "cancel", "detach"]
    assert notebook.complete("%%remote --on-interrupt ") == ["cancel", "detach"]
    assert notebook.complete("%nbray cancel ") == ["--force", "--help"]
    assert "--head" not in notebook.complete("--he")


def test_settings_are_shown_and_set(notebook: Notebook) -> None:
    assert "interrupt_grace" in notebook.run("%nbray config").result
    shown = notebook.run("%nbray config tell_bytes 2GiB").result
    assert str(2 * 2**30) in shown and "on_interrupt" not in shown
    assert "'much' is not a size" in notebook.run("%nbray config tell_bytes much").printed
    assert "cancel or detach" in notebook.run("%nbray config on_interrupt never").printed


@pytest.mark.slow
def test_a_detached_cluster_outlives_its_kernel(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    stop = [sys.executable, "-c", "from nbray.cli import main; main()", "stop"]
    try:
        with running_notebook("--detach") as first:
            node = first.run("import nbray\nnbray.nodes()[0]['NodeID']").result
        with running_kernel() as second:
            second.run("%load_ext nbray\nimport nbray")
            assert "1 node" in second.run("%nbray attach").result
            assert second.run("nbray.nodes()[0]['NodeID']").result == node
            assert second.run("%remote 6 * 7").result == "42"
            left = second.run("%nbray stop").printed
            assert "it runs on. %nbray attach 127.0.0.1:" in left and "`nbray stop`" in left
            assert "1 node" in second.run("%nbray attach").result
    finally:
        ended = subprocess.run(stop, capture_output=True, text=True, timeout=60, check=False)
    assert "Stopped 1 node" in ended.stdout


def test_a_cell_runs_once_on_every_node(notebook: Notebook) -> None:
    added = notebook.run("from nbray.driver.local_nodes import add_node\nadd_node(num_cpus=1)")
    notebook.wait(lambda: "2 nodes" in notebook.run("%nbray status").result, "the second node")
    base = notebook.run("base = 40")
    assert not base.error
    cell = notebook.run(
        "%%remote --targets nodes -o where,total\nimport nbray, os\n"
        "where = nbray.get_runtime_context().get_node_id()\ntotal = base + 2\n"
        "print('on', where[:8])"
    )
    assert not cell.error
    assert notebook.run("len(set(where)), total").result == "(2, [42, 42])"
    assert added.result.strip("'") in notebook.run("where").result
    notebook.wait(lambda: cell.printed.count("on ") >= 2, "what both nodes print")


def test_scale_adds_nodes_and_removes_idle_ones_but_asks_before_work_ends(
    notebook: Notebook,
) -> None:
    assert "2 nodes" in notebook.run("%nbray scale 2 --num-cpus 1").result
    notebook.run(
        "import nbray\nfrom nbray.driver.local_nodes import added_nodes\n"
        "from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Here\n"
        "@nbray.remote\nclass Desk:\n    def sit(self):\n        return 1\n"
        "desk = Desk.options(scheduling_strategy=Here(added_nodes()[0], soft=False)).remote()\n"
        "nbray.get(desk.sit.remote())"
    )
    assert "3 nodes" in notebook.run("%nbray scale 3 --num-cpus 1").result
    assert "alive" in notebook.run("%nbray scale 2").result
    assert notebook.run("nbray.get(desk.sit.remote())").result == "1", "the idle node went"
    refused = notebook.run("%nbray scale 1").printed
    assert "runs 1 actor" in refused and "--yes" in refused
    shown = notebook.run("%nbray scale 1 --yes").result
    assert len([line for line in shown.splitlines() if " alive " in line]) == 1
    refused = notebook.run("%nbray scale 0").printed
    assert "0 nodes of 1 can be removed from here" in refused
    assert "'many'" in notebook.run("%nbray scale many").printed


def test_timeline_writes_a_trace_and_links_it(notebook: Notebook, tmp_path: Path) -> None:
    notebook.run("import nbray\n@nbray.remote\ndef traced():\n    pass\nnbray.get(traced.remote())")
    path = tmp_path / "trace.json"

    def traced() -> bool:
        cell = notebook.run(f"%nbray timeline {path}")
        assert not cell.error and "perfetto" in cell.printed and cell.result == str(path)
        return any(event["name"] == "traced" for event in json.loads(path.read_text()))

    notebook.wait(traced, "the task in the trace")
    refused = notebook.run("%nbray timeline /nowhere/trace.json").printed
    assert "/nowhere/trace.json: No such file or directory" in refused


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_scale_tells_the_autoscaler_its_bounds(notebook: Notebook) -> None:
    refused = notebook.run("%nbray scale 1..2").printed
    assert "this cluster has no autoscaler" in refused
    assert "'5..2'" in notebook.run("%nbray scale 5..2").printed
    began = notebook.run(
        "%nbray stop\nimport nbray, nbray.notebook\n"
        "from nbray.cluster_utils import AutoscalingCluster\n"
        "small = {'resources': {'CPU': 1}, 'node_config': {}, 'max_workers': 1}\n"
        "grows = AutoscalingCluster({'CPU': 0}, {'small': small})\ngrows.start()\n"
        "nbray.init(grows.address)"
    )
    assert not began.error, began
    notebook.wait(
        lambda: notebook.run("nbray.notebook.engine().cluster.scaling() is None").result == "False",
        "the autoscaler's first word",
    )
    assert "keeps 2 to 3 nodes" in notebook.run("%nbray scale 2..3 --type small").printed
    assert "none of its node types: small" in notebook.run("%nbray scale 2 --type x").printed
    notebook.wait(
        lambda: notebook.run("nbray.cluster_resources().get('CPU')").result == "2.0", "two nodes"
    )
    notebook.run("nbray.shutdown()\ngrows.shutdown()")
