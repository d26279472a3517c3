"""Runs the tour notebook in a real kernel and prints what its cells show."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def main() -> int:
    """Execute the tour; returns the exit code."""
    path = Path(__file__).with_name("tour.ipynb")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        iopub_timeout=60,
        resources={"metadata": {"path": path.parent}},
    )
    failed: CellExecutionError | None = None
    try:
        client.execute()
    except CellExecutionError as error:
        failed = error
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            print(f"\n{cell.source}\n")
            continue
        print("\n".join(f"    {line}" for line in cell.source.splitlines()))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = (
                output.get("text")
                or data.get("text/plain")
                or "\n".join(output.get("traceback", []))
            )
            kinds = [kind for kind in data if kind.startswith("image/")]
            print(text.rstrip() + "".join(f" [{kind}]" for kind in kinds))
    if failed is not None:
        print(f"\nThe tour failed: {failed.ename}: {failed.evalue}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
