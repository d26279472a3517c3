"""What a person sees of detached, cached, profiled and failed cells, in JupyterLab and saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.jupyterlab import CHROMIUM, START, Lab

from nbray.testing import processes_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
CELLS = [
    START,
    "%%remote --profile\ndef busy(n):\n    return sum(i * i for i in range(n))\n"
    "total = busy(6_000_000)\ntotal",
    "step = 2\ndef slow(n):\n    return n * step",
    "%%remote --cache\nprint('computed')\nanswer = slow(21)\nanswer",
    "%%remote --detach train\nfor epoch in range(3):\n    print('epoch', epoch)\nloss = 0.25",
    "%nbray attach train",
    "%nbray results",
    "%nbray who",
    "%%remote\ndef deep(row):\n    return 1 / row['rate']\ndeep({'rate': 0})",
    "%nbray debug",
]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_cells_that_go_beyond_are_seen_and_stay_in_the_saved_notebook(
    lab: Lab, session_root: Path, dark: bool
) -> None:
    page = lab.open("dark" if dark else "light", CELLS, dark)
    for number in range(4):
        page.run(number)
    page.output(1).locator("svg").first.wait_for()
    page.shows(1, "busy")
    page.cell(1).scroll_into_view_if_needed()
    page.picture("profile")
    page.shows(3, "computed")
    page.run(3)
    page.shows(3, "From the cache")
    page.shows(3, "42")
    page.run(4)
    page.shows(4, "Detached as train")
    page.run(5)
    page.shows(5, "epoch 2")
    page.run(6)
    page.shows(6, "train")
    page.run(7)
    page.shows(7, "total")
    page.cell(5).scroll_into_view_if_needed()
    page.picture("detached")
    page.run(8)
    page.shows(8, "%nbray debug looks into it")
    page.start(9)
    page.answer(9, "row")
    page.shows(9, "'rate': 0")
    page.cell(9).scroll_into_view_if_needed()
    page.picture("debug")
    page.answer(9, "q")
    page.ended(9)
    page.cell(9).locator(".cm-content").click()  # the keys go to the page again
    saved = page.saved()
    from nbconvert import HTMLExporter

    document, _ = HTMLExporter().from_notebook_node(saved)
    for part in ("<svg", "busy", "epoch 2", "Detached as train", "From the cache", "copies of its"):
        assert part in document, f"{part} is not in nbconvert's page"
    for cell in saved.cells:
        for output in cell.outputs:
            data = output.get("data", {})
            assert not data or "text/plain" in data, "a plain viewer has nothing to show"
            assert "<script" not in str(data.get("text/html", ""))
    page.menu("Kernel", "Shut Down Kernel")
    wait_until(lambda: not processes_of(session_root), "the end of the cluster", timeout=60)
    page.page.reload()
    page.output(1).locator("svg").first.wait_for(timeout=60_000)
    page.cell(1).scroll_into_view_if_needed()
    page.picture("reopened")
    assert page.output(1).locator("svg").first.is_visible()
