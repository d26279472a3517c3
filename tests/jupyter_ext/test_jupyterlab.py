"""JupyterLab in Chromium: what a person sees and clicks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.jupyterlab import CHROMIUM, PICTURES, START, Lab, Page, playwright

from nbray.testing import processes_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]


def test_a_plot_output_and_progress_stay_in_the_saved_notebook(lab: Lab, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    page = lab.open(
        "work",
        [
            START,
            "%%remote\nimport matplotlib.pyplot as plt\nprint('drawn in a worker')\n"
            "plt.figure(figsize=(4, 2)); plt.plot([3, 1, 2]);",
            "import nbray, os, time\n@nbray.remote\ndef slow(i):\n"
            f"    while not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
            "    print('done with', i)\nrefs = [slow.remote(i) for i in range(16)]\n"
            "nbray.get(refs)[:2]",
            "refs[0]",
            "@nbray.remote\ndef flood():\n    for i in range(30000): print('line', i)\n"
            "nbray.get(flood.remote())",
        ],
    )
    page.run(0)
    page.shows(0, "1 node")
    page.run(1)
    page.shows(1, "drawn in a worker")
    page.output(1).locator("img").wait_for()
    page.picture("plot")
    page.start(2)
    page.shows(2, "running")
    page.picture("progress")
    gate.touch()
    page.ended(2)
    page.shows(2, "16/16")
    page.run(3)
    page.shows(3, "ready")
    page.run(4)
    page.shows(4, "29,800 more lines")
    page.cell(3).scroll_into_view_if_needed()
    page.picture("final")
    saved = page.saved()
    outputs = [output for cell in saved.cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    html = "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert "16/16" in html and 'class="nbray-picture"' in html


def test_handles_have_pictures_and_the_dashboard_is_one_click_away(
    lab: Lab, session_root: Path
) -> None:
    page = lab.open(
        "handles",
        [
            "%load_ext nbray\nimport nbray\n"
            "nbray.init(num_cpus=2, include_dashboard=True, dashboard_port=0)",
            "@nbray.remote\nclass Counter:\n    def add(self, n): pass\n    def get(self): pass\n"
            "counter = Counter.options(name='tally').remote()\n"
            "nbray.get(counter.get.remote())\ncounter",
            "@nbray.remote\ndef numbers():\n    yield from range(3)\nnumbers.remote()",
            "from nbray.util.state import list_nodes\nlist_nodes()[0]",
            "%%remote\nimport numpy as np\ntable = np.zeros((100, 3))",
            "globals()['table']",
            "nbray.put({'a': 1, 'b': 2})",
            "%nbray status",
        ],
    )
    for number in range(8):
        page.run(number)
    page.shows(0, "dashboard")
    page.output(7).locator(".nbray-cluster").wait_for()
    tables = playwright.expect(page.output(7).locator("table:visible"), "the picture is hidden")
    tables.to_have_count(1)
    page.cell(0).scroll_into_view_if_needed()
    page.picture("top")
    page.cell(7).scroll_into_view_if_needed()
    page.picture("bottom")
    page.saved()
    with page.page.context.expect_page() as opened:
        page.output(0).locator("a").click()
    dashboard = opened.value
    dashboard.get_by_text("CPU").first.wait_for(timeout=60_000)
    if PICTURES:
        dashboard.wait_for_timeout(3000)
        dashboard.screenshot(path=str(PICTURES / "handles-dashboard.png"))
    dashboard.close()
    page.menu("Kernel", "Shut Down Kernel")
    wait_until(lambda: not processes_of(session_root), "the end of the cluster", timeout=60)
    page.page.reload()
    page.output(7).locator(".nbray-table").wait_for(timeout=60_000)
    page.cell(7).scroll_into_view_if_needed()
    page.picture("reopened")
    playwright.expect(page.output(1).locator(".nbray-picture")).to_be_visible()
    assert page.output(7).locator(".nbray-table").is_visible(), "the static picture is seen now"


def test_a_hundred_thousand_lines_a_second_leave_the_page_usable(lab: Lab) -> None:
    page = lab.open(
        "flood",
        [
            START,
            "import nbray, time\n@nbray.remote(num_cpus=0.25)\ndef flood(i):\n"
            "    until, began, lines = time.monotonic() + 4, time.process_time(), 0\n"
            "    while time.monotonic() < until:\n"
            "        print('\\n'.join(f'line {i} {n}' for n in range(lines, lines + 1000)))\n"
            "        lines += 1000\n    return lines, time.process_time() - began\n"
            "refs = [flood.remote(i) for i in range(8)]",
            # Of two processors that do nothing else it is a hundred thousand in a second.
            "lines, own = map(sum, zip(*nbray.get(refs)))\n"
            "lines > 50_000 * own, f'{lines:,} lines'",
        ],
    )
    page.run(0)
    page.run(1)
    page.start(2)
    page.shows(1, "more lines")
    slowest = max(_work_between_turns(page))
    assert slowest < 1, f"the page stood still for {slowest:.1f} s"
    page.picture("during")
    page.ended(2)
    page.shows(2, "(True, ")
    shown = page.output(2).inner_text()
    lines = int(re.sub(r"\D", "", shown.partition("'")[2]))
    page.shows(1, f"{lines - 200:,} more lines", timeout_s=60)
    assert page.output(1).inner_text().count("\n") < 260
    assert page.saved() and page.path.stat().st_size < 100_000


def _work_between_turns(page: Page) -> Iterator[float]:
    """What the page's own thread had to do before each of its turns, in seconds of a processor.

    For how long it waits for one is no matter of the page.
    """
    devtools = page.page.context.new_cdp_session(page.page)
    devtools.send("Performance.enable")
    before = None
    for _turn in range(40):
        page.page.evaluate("() => new Promise(r => requestAnimationFrame(() => setTimeout(r, 0)))")
        metrics = devtools.send("Performance.getMetrics")["metrics"]
        (own,) = (metric["value"] for metric in metrics if metric["name"] == "ThreadTime")
        if before is not None:
            yield own - before
        before = own
        page.page.wait_for_timeout(50)


def test_the_task_stream_is_drawn_and_can_be_looked_into(lab: Lab) -> None:
    page = lab.open(
        "stream",
        [
            START,
            "import nbray, time, random\nrandom.seed(1)\n@nbray.remote(num_cpus=0.5)\n"
            "def load(i, s):\n    time.sleep(s)\n    return i\n@nbray.remote(num_cpus=0.5)\n"
            "def fit(i, s):\n    time.sleep(s)\n    return 1 / (i - 7)\n"
            "t = lambda: random.random() / 3\n"
            "refs = [fit.remote(load.remote(i, t()), t()) for i in range(20)]",
            "%nbray stream",
            "nbray.wait(refs, num_returns=20)[0][:0]",
            "%nbray stream In[2] --zoom",
        ],
    )
    for number in range(3):
        page.run(number)
    page.shows(2, "Tasks of In [2]")
    page.picture("live")
    page.run(3)
    page.shows(2, "fit 20 tasks")
    page.shows(2, "1 failed")
    playwright.expect(page.output(2).locator("svg rect")).to_have_count(40)
    page.cell(2).scroll_into_view_if_needed()
    page.run(4)
    frame = page.output(4).frame_locator("iframe")
    frame.locator(".bk-Figure").wait_for()
    page.cell(4).scroll_into_view_if_needed()
    page.picture("zoom")
    saved = page.saved()
    assert "<svg" in saved.cells[2].outputs[0]["data"]["text/html"]
    assert "1 failed" in saved.cells[2].outputs[0]["data"]["text/plain"]
    assert page.path.stat().st_size < 200_000


def test_an_interrupt_stops_fifty_tasks_and_all_lives_on(lab: Lab) -> None:
    page = lab.open(
        "interrupt",
        [
            START,
            "import nbray, time\n@nbray.remote(num_cpus=0.02)\ndef long(i):\n    time.sleep(1000)\n"
            "nbray.get([long.remote(i) for i in range(50)])",
            "@nbray.remote\ndef quick(): return 6 * 7\nnbray.get(quick.remote())",
            "until = time.monotonic() + 60\n"
            "while nbray.available_resources().get('CPU', 0) < 2 and time.monotonic() < until:\n"
            "    time.sleep(0.1)\n"
            "nbray.available_resources()['CPU']",
        ],
    )
    page.run(0)
    page.start(1)
    page.shows(1, "50 running", timeout_s=60)
    page.picture("running")
    page.menu("Kernel", "Interrupt Kernel")
    page.ended(1)
    page.shows(1, "KeyboardInterrupt")
    page.shows(1, re.compile(r"50/50, 50 cancelled"))
    page.picture("interrupted")
    page.run(2)
    page.shows(2, "42")
    page.run(3)
    page.shows(3, "2.0")


def test_the_cluster_widget_is_live_and_asks_before_it_destroys(lab: Lab, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    page = lab.open(
        "widget",
        [
            START,
            "%nbray status",
            "import nbray, os, time\n@nbray.remote\ndef busy(i):\n"
            f"    while not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
            "@nbray.remote(resources={'gold': 1})\ndef never(): pass\n"
            "refs = [busy.remote(i) for i in range(8)] + [never.remote()]",
            "from nbray.jupyter_ext.widgets.cluster_widget import shared_feed\nshared_feed.running",
        ],
    )
    page.run(0)
    page.run(1)
    widget = page.output(1).locator(".nbray-cluster")
    widget.wait_for()
    shows = playwright.expect(widget)
    shows.to_contain_text("1 node")
    shows.to_contain_text("Nothing runs")
    page.run(2)
    shows.to_contain_text("busy 2 running")
    shows.to_contain_text("gold")
    page.picture("busy")
    gate.touch()
    widget.locator("button[title='Add a node']").click()
    shows.to_contain_text("2 nodes")
    page.picture("two-nodes")
    widget.locator("button[title='Remove a node']").click()
    shows.to_contain_text("Remove the node that was added last?")
    page.picture("asks")
    widget.locator("button[title='No']").click()
    shows.to_contain_text("2 nodes")
    widget.locator("button[title='Remove a node']").click()
    widget.locator("button[title='Yes']").click()
    shows.to_contain_text("1 node ")
    page.run(3)
    page.shows(3, "True")
    page.cell(1).click()
    page.menu("Edit", "Clear Cell Output")
    wait_until(lambda: _feed_has_ended(page), "the end of the feed")
    page.run(1)
    widget.wait_for()
    widget.locator("button[title='Stop']").click()
    widget.locator("button[title='Yes']").click()
    shows.to_contain_text("nbray is stopped")
    page.picture("stopped")


def _feed_has_ended(page: Page) -> bool:
    page.run(3)
    return "False" in page.output(3).inner_text()


def test_a_kernel_restart_leaves_no_process(lab: Lab, session_root: Path) -> None:
    page = lab.open(
        "restart",
        [
            START,
            "import nbray, time\nrefs = [nbray.remote(time.sleep).remote(60) for _ in range(4)]",
            "1+1",
        ],
    )
    page.run(0)
    page.run(1)
    assert processes_of(session_root)
    page.menu("Kernel", "Restart Kernel")
    page.page.locator(".jp-Dialog .jp-mod-accept").click()
    wait_until(lambda: not processes_of(session_root), "the end of the cluster", timeout=60)
    page.run(2)
    page.shows(2, "2")


def test_everything_is_legible_in_the_dark(lab: Lab) -> None:
    page = lab.open(
        "dark",
        [
            START,
            "import nbray, time, numpy as np\n@nbray.remote\ndef slow(i):\n    time.sleep(0.4)\n"
            "    return 1 / (i - 3)\nrefs = [slow.remote(i) for i in range(12)]\n"
            "nbray.wait(refs, num_returns=12)[0][:2]",
            "big = nbray.put(np.zeros((300, 1000)))\nbig",
            "%nbray status",
            "nbray.get(refs)",
            "%nbray stream In[2]",
            "%nbray stream In[2] --zoom",
        ],
        dark=True,
    )
    for number in (0, 1, 2, 3):
        page.run(number)
    page.output(3).locator(".nbray-cluster").wait_for()
    page.start(4)
    page.shows(4, "ZeroDivisionError")
    page.cell(1).scroll_into_view_if_needed()
    page.picture("top")
    page.cell(4).scroll_into_view_if_needed()
    page.picture("bottom")
    page.run(5)
    page.run(6)
    page.output(6).frame_locator("iframe").locator(".bk-Figure").wait_for()
    page.cell(6).scroll_into_view_if_needed()
    page.picture("stream")
    for place in (
        page.output(1).locator(".nbray-panel"),
        page.output(2).locator(".nbray-picture"),
        page.output(5).locator(".nbray-stream"),
    ):
        assert _contrast(place) >= 4.5


def _contrast(place: Any) -> float:
    """The contrast of an element's text against what lies under it, as WCAG defines it."""
    colours = place.first.evaluate(
        """element => {
            const colour = getComputedStyle(element).color;
            let ground = 'rgba(0, 0, 0, 0)';
            for (let e = element; e && /rgba\\(.*, 0\\)/.test(ground); e = e.parentElement)
                ground = getComputedStyle(e).backgroundColor;
            return [colour, ground];
        }"""
    )
    light = sorted(_luminance(colour) for colour in colours)
    return (light[1] + 0.05) / (light[0] + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3])
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
        for part in (red, green, blue)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_plot_of_the_dashboard_becomes_a_pane_of_its_own(lab: Lab) -> None:
    start = f"{START} --include-dashboard 1 --dashboard-port 0"
    page = lab.open("pane", [start, "%nbray dashboard task-stream"])
    page.run(0)
    page.run(1)
    drawn = ".plot[data-drawn]"
    page.output(1).frame_locator("iframe").locator(drawn).wait_for(timeout=60_000)
    beside = page.output(1).locator(".jp-OutputArea-prompt").first
    beside.click(button="right", force=True, position={"x": 20, "y": 60})
    page.page.locator(".lm-Menu-itemLabel", has_text="Create New View for Cell Output").click()
    pane = page.page.frame_locator(".jp-LinkedOutputView iframe")
    pane.locator(drawn).wait_for(timeout=60_000)
    page.picture("plot")
