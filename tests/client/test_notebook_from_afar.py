"""A notebook on another machine: the same commands, cells, output and interrupts."""

from __future__ import annotations

import pytest
from support.kernel import running_kernel

from nbray.launcher.local import RunningNode
from nbray.testing import Proxy, wait_until

pytestmark = pytest.mark.slow


def test_a_notebook_works_from_afar_and_says_when_it_is_reconnecting(
    head: RunningNode, path: Proxy, address: str
) -> None:
    with running_kernel() as notebook:
        notebook.run("%load_ext nbray")
        assert "1 node" in notebook.run(f"%nbray attach {address} --namespace afar").result
        notebook.run("import nbray, time\na = 20")
        cell = notebook.run("%%remote\nb = a + 1\nprint('from the cluster', b)\nb")
        assert "from the cluster 21" in cell.printed and cell.result == "21", cell.messages
        assert notebook.run("b * 2").result == "42"
        long = notebook.start("%%remote\nprint('it runs')\nimport time; time.sleep(1000)")
        notebook.wait(lambda: "it runs" in long.printed, "the task")
        notebook.manager.interrupt_kernel()
        notebook.wait(lambda: long.idle, "the end of the interrupted cell")
        assert "Interrupt" in long.error
        assert notebook.run("%%remote\n1 + 1").result == "2"
        path.refuse()
        path.cut()
        status = notebook.run("%nbray nodes")
        assert "reconnecting" in status.error + status.printed
        running = notebook.start("%%remote\nprint('after all')\n5")
        path.refuse(False)
        notebook.wait(lambda: running.idle, "the cell that waited for the connection")
        assert running.result == "5" and "after all" in running.printed
        left = notebook.run("%nbray stop")
        assert "it runs on" in left.printed
    log = head.session.log_path("gateway.log")
    wait_until(lambda: "has left" in log.read_text(), "its goodbye")
