"""A notebook on another machine: the same commands, cells, output and interrupts."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.kernel import running_kernel

from nbray.launcher.local import RunningNode
from nbray.testing import Proxy, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every socket of TCP has TLS, and a driver may be away; a loss is told after 5 s."""
    monkeypatch.setenv("NBRAY_USE_TLS", "1")
    monkeypatch.setenv("NBRAY_CLIENT_RECONNECT_GRACE_PERIOD", "25")


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


def test_a_tunnel_with_tls_is_cut_under_a_notebook_for_a_while_and_for_good(
    tls: None, head: RunningNode, path: Proxy, address: str, tmp_path: Path
) -> None:
    with running_kernel() as notebook:
        notebook.run("%load_ext nbray")
        assert "1 node" in notebook.run(f"%nbray attach {address}").result
        notebook.run(f"gate = {str(tmp_path / 'gate')!r}")
        cell = notebook.start(
            "%%remote\nimport os, time\nprint('line 0')\n"
            "while not os.path.exists(gate): time.sleep(0.05)\n"
            "for i in range(1, 100): print('line', i)\nlast = i\nlast"
        )
        notebook.wait(lambda: "line 0" in cell.printed, "its first line")
        path.refuse()
        path.cut()
        (tmp_path / "gate").touch()  # it goes on, and ends, while nobody hears it
        notebook.wait(lambda: "was lost" in cell.printed, "the word that the connection is lost")
        path.refuse(False)
        notebook.wait(lambda: cell.idle, "its end")
        said = [line for line in cell.printed.splitlines() if line.startswith("line ")]
        assert said == [f"line {i}" for i in range(100)] and "99" in cell.results, cell.messages
        assert "connected again" in cell.printed and notebook.run("last + 1").result == "100"
        waits = notebook.start("%%remote\nprint('it runs')\nimport time\ntime.sleep(1000)")
        notebook.wait(lambda: "it runs" in waits.printed, "the task")
        path.refuse()
        path.cut()
        notebook.wait(lambda: waits.idle, "the end of the cell", 90)
        assert "has lost its cluster" in waits.error and "out of reach for 25 s" in waits.error
        for code in ("%%remote\n1", "%nbray nodes"):
            after = notebook.run(code)
            assert "lost its cluster" in after.error + after.printed, (code, after.messages)
        assert notebook.run("last").result == "99"  # what is here already is kept
        path.refuse(False)
        notebook.run("%nbray stop")
        assert "1 node" in notebook.run(f"%nbray attach {address}").result
        assert notebook.run("%%remote\n1 + 1").result == "2"
