"""The magics, in a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
from conftest import processes_of, wait_until
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient


def run_cells(*sources: str, allow_errors: bool = False) -> list[str]:
    """Execute the cells in a new kernel; what each of them shows, as text."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, allow_errors=allow_errors).execute()
    shown = []
    for cell in notebook.cells:
        parts = []
        for output in cell.outputs:
            parts.append(output.get("text", ""))
            parts.append(output.get("data", {}).get("text/plain", ""))
            parts.extend(output.get("traceback", []))
        shown.append("\n".join(parts))
    return shown


def test_a_remote_cells_names_are_used_in_the_next_cell(session_root: Path) -> None:
    shown = run_cells(
        "%load_ext nbray",
        "%nbray start --head --num-cpus 2",
        "%nbray start --head --num-cpus 2",
        "x = 3",
        "%%remote\nprint('printed in a worker')\ny = [x * 2] * 3\nx + 1",
        "y",
        "%%remote --noblock\nimport time\ntime.sleep(0.5)\nz = y + [1]",
        "len(z)",
        "%nbray status",
        "%nbray stop",
    )
    assert "printed in a worker" in shown[4]
    assert "4" in shown[4]
    assert "[6, 6, 6]" in shown[5]
    assert "running" in shown[6]
    assert "4" in shown[7]
    assert "1 node" in shown[8]


def test_a_remote_cells_error_shows_its_own_line(session_root: Path) -> None:
    shown = run_cells(
        "%load_ext nbray",
        "%nbray start --head --num-cpus 1",
        "%%remote\n1 / 0",
        "%nbray stop",
        allow_errors=True,
    )
    assert "1 / 0" in shown[2]
    assert "ZeroDivisionError" in shown[2]


def test_an_interrupt_returns_the_prompt_and_a_killed_kernel_leaves_nothing(
    session_root: Path,
) -> None:
    manager = KernelManager()
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        for source in ("%load_ext nbray", "%nbray start --head --num-cpus 1"):
            reply = client.execute_interactive(source, timeout=60, output_hook=lambda _: None)
            assert reply["content"]["status"] == "ok"
        request = client.execute(
            "import nbray, time\nnbray.get(nbray.remote(time.sleep).remote(600))"
        )
        wait_until(lambda: _busy(client, request), "the cell to run")
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=30)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        reply = client.execute_interactive("1 + 1", timeout=30, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    wait_until(lambda: not processes_of(session_root), "the cluster to leave with its kernel")
    for left in session_root.iterdir():  # a killed kernel cannot delete its folder
        for path in sorted(left.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        left.rmdir()


def _busy(client: object, request: str) -> bool:
    message = client.get_iopub_msg(timeout=30)  # type: ignore[attr-defined]
    return (
        message["parent_header"].get("msg_id") == request and message["msg_type"] == "execute_input"
    )
