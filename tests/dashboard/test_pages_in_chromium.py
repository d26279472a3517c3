"""Every page in a real Chromium, in both themes, under load and with hostile names."""

from __future__ import annotations

import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import running
from support.stopping import stand_still

import nbray
from nbray.dashboard.pages import PAGES
from nbray.dashboard.parts.plots import PLOTS
from nbray.driver.context import NbrayContext
from nbray.testing import wait_until
from nbray.util.state import list_tasks

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

HOSTILE = "<img src=x onerror=window.hit=1>\"'><script>window.hit=1</script>"
SHOTS = os.environ.get("NBRAY_SCREENSHOTS")
SECONDS = 60_000


@nbray.remote
def short(number: int) -> int:
    return number


@nbray.remote
def takes(*_values: object) -> None:
    """Takes results of others."""


@nbray.remote(max_retries=0)
def fails(number: int) -> None:
    print(f"a line before the end of {number}", flush=True)
    raise ValueError(f"{HOSTILE} {number}")


@nbray.remote(num_cpus=0)
class Held:
    def call(self) -> int:
        return 1


class Load:
    """Tasks all the time, of several kinds, until it is left."""

    def __init__(self) -> None:
        self.actors = [Held.options(name=f"{HOSTILE}{number}").remote() for number in range(20)]
        nbray.get([actor.call.remote() for actor in self.actors], timeout=60)
        self.group = nbray.util.placement_group([{"CPU": 0.1}], name=HOSTILE)
        self.kept = nbray.put(bytes(1 << 20))
        self.stuck = short.options(resources={HOSTILE[:20]: 1}, name=HOSTILE).remote(1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._over.is_set():
            refs: list[Any] = [short.remote(number) for number in range(300)]
            refs += [fails.remote(number) for number in range(2)]
            refs += [actor.call.remote() for actor in self.actors]
            refs.append(takes.remote(refs[:5], refs[5]))
            nbray.wait(refs, num_returns=len(refs), timeout=60)
            self._over.wait(0.2)  # the browser has these processors, too

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def context(session_root: Path) -> NbrayContext:
    """A cluster with a dashboard on a free port."""
    return nbray.init(
        num_cpus=2, object_store_memory=64 << 20, include_dashboard=True, dashboard_port=0,
        log_to_driver=False,
    )  # fmt: skip


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=SECONDS
        )
        yield found
        found.close()


def opened(browser: Any, context: NbrayContext, complaints: list[str], **options: Any) -> Any:
    """A page that is logged in; what its scripts complain of is noted."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(SECONDS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.goto(context.login_link())
    return page


def shown(page: Any, address: str) -> None:
    """Go to a page, and wait until it is live and its plots are drawn."""
    page.goto(address)
    page.locator("body[data-live]").wait_for()
    wait = "() => [...document.querySelectorAll('.plot')].every((one) => one.dataset.drawn)"
    page.wait_for_function(wait)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_live_legible_and_safe(
    context: NbrayContext, browser: Any, scheme: str
) -> None:
    complaints: list[str] = []
    base = f"http://{context.dashboard_url}/"
    with Load() as load:
        wait_until(
            lambda: list_tasks(filters=[("state", "=", "FAILED")]), "failed tasks", timeout=60
        )
        actor = load.actors[0]._actor_id.hex()
        (task, *_rest) = list_tasks(filters=[("state", "=", "FAILED")], detail=True)
        node = nbray.get_runtime_context().get_node_id()
        ids = {
            "node": node, "task": task.task_id, "actor": actor, "worker": task.worker_id,
            "group": load.group.id.hex(), "job": nbray.get_runtime_context().get_job_id(),
        }  # fmt: skip
        page = opened(
            browser, context, complaints, color_scheme=scheme,
            viewport={"width": 720, "height": 900},
        )  # fmt: skip
        places = [f"{name}?id={ids[name]}" if one.needs_id else name for name, one in PAGES.items()]
        places += [f"profile?id={ids['worker']}", f"logs?node={node[:8]}&name=raylet.log",
                   f"graph?id={ids['task']}", f"graph?job={ids['job']}",
                   f"graph?job={ids['job']}&by=results", f"graph?id={ids['task']}&by=results",
                   f"graphs?span=1d&node={node}", "plot?name=task-stream&embed=1"]  # fmt: skip
        if scheme == "light":
            places += [f"plot?name={name}&embed=1" for name in PLOTS]
        for place in places:
            shown(page, base + place)
            text = page.inner_text("main")
            assert "could not be made" not in text and "There is no such thing" not in text, place
            assert not page.inner_text("#trouble"), place
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{place} is {wide} pixels too wide"
            assert page.evaluate("window.hit") is None, place
            if SHOTS:
                name = "".join(c if c.isalnum() else "-" for c in place[:20]) or "overview"
                page.screenshot(path=f"{SHOTS}/{name}-{scheme}.png", full_page=True)
        shown(page, base)
        number = "document.querySelector('#b-summary').innerText"
        before = page.evaluate(number)
        page.wait_for_function(f"(before) => ({number}) !== before", arg=before)
        assert "onerror" in page.inner_text("main"), "what is hostile is shown as text"
    assert not complaints


def test_from_a_failing_task_to_its_log_line_in_three_clicks(
    context: NbrayContext, browser: Any
) -> None:
    nbray.wait([fails.remote(7)], timeout=60)
    complaints: list[str] = []
    page = opened(browser, context, complaints)
    page.locator("#b-failed li a").first.click()  # one: the task
    page.locator("#s-error").get_by_text("ValueError").wait_for()
    line = page.locator("#s-log .line", has_text="a line before the end of 7")
    line.wait_for()
    assert "/task?id=" in page.url
    page.locator("#s-log h2 a", has_text=".out").click()  # two: the whole log
    page.locator("input.search").fill("before the end of 7")
    page.locator("mark").first.wait_for()
    assert "q=before" in page.url and "/logs?" in page.url
    page.go_back()
    page.locator("#s-error").wait_for()
    assert not complaints


def test_an_actor_is_ended_only_when_that_is_confirmed_and_tables_remember_in_the_address(
    context: NbrayContext, browser: Any
) -> None:
    actors = [Held.options(name=f"held-{number}").remote() for number in range(60)]
    nbray.get([actor.call.remote() for actor in actors], timeout=120)
    complaints: list[str] = []
    page = opened(browser, context, complaints)
    shown(page, f"http://{context.dashboard_url}/actors?sort=-name")
    page.get_by_text("1 to 50 of 60 are shown").wait_for()
    assert page.locator("tbody tr").first.inner_text().count("held-9")
    page.get_by_text("Next").click()
    page.get_by_text("51 to 60 of 60 are shown").wait_for()
    page.locator("input.search").fill("held-59")
    page.get_by_text("1 of 60 actors match").wait_for()
    assert "q=held-59" in page.url and "sort=-name" in page.url and "page" not in page.url
    page.locator("tbody tr a").first.click()
    end = page.get_by_role("button", name="End this actor")
    end.click()
    page.get_by_role("button", name="Cancel").click()
    assert nbray.get(actors[59].call.remote(), timeout=60) == 1
    end.click()
    page.locator(".ask button.bad").click()
    page.locator("#b-actor", has_text="ended from the dashboard").wait_for()
    with pytest.raises(nbray.exceptions.ActorDiedError, match="from the dashboard"):
        nbray.get(actors[59].call.remote(), timeout=60)
    assert not complaints


def test_a_running_process_shows_its_stack_and_a_flame_graph(
    context: NbrayContext, browser: Any
) -> None:
    @nbray.remote
    def busy_with_sums(seconds: float) -> int:
        until = time.monotonic() + seconds
        total = 0
        while time.monotonic() < until:
            total += sum(range(1000))
        return total

    busy_with_sums.remote(600)
    complaints: list[str] = []
    page = opened(browser, context, complaints)
    shown(page, f"http://{context.dashboard_url}/profile")
    row: Callable[[], Any] = lambda: page.locator("tbody tr a", has_text="busy").first  # noqa: E731
    row().click()
    for kind in ("Stacks, now", "Flame graph, 5 s"):
        page.get_by_role("button", name=kind).click()
        page.locator(".ask button.bad").click()
        result = page.locator("section[id^=s-result]", has_text=kind)
        result.wait_for()
        assert "busy_with_sums" in result.inner_text()
    frame = page.locator(".flame > div", has_text="busy_with_sums").first
    whole = page.locator(".flame").bounding_box()["width"]
    before = frame.bounding_box()["width"]
    frame.click()
    assert abs(frame.bounding_box()["width"] - whole) < 2, "it has the whole width"
    assert page.locator(".flame > div.outer").count(), "those that called it stay"
    frame.click()
    assert abs(frame.bounding_box()["width"] - before) < 2, "and all are there again"
    shown(page, f"http://{context.dashboard_url}/flames?kind=task")
    page.get_by_role("button", name="Look at them").click()
    page.locator(".ask button.bad").click()
    frame = page.locator(".flame > div", has_text="busy_with_sums").first
    frame.click()
    page.get_by_text("At work: 1 process.").wait_for()
    assert "executor.py" not in page.inner_text(".flame"), "the frames are the user's"
    assert not complaints


def test_a_log_is_taken_along_and_a_graph_leads_to_its_tasks(
    context: NbrayContext, browser: Any
) -> None:
    @nbray.remote(num_cpus=0)
    def submits() -> list[int]:
        found: list[int] = nbray.get([short.remote(number) for number in range(3)])
        return found

    nbray.get(submits.remote(), timeout=60)
    complaints: list[str] = []
    page = opened(browser, context, complaints)
    job = nbray.get_runtime_context().get_job_id()
    shown(page, f"http://{context.dashboard_url}/job?id={job}")
    page.locator("#s-work a", has_text="graph").click()
    page.locator("svg.graph a", has_text="submits").click()
    page.locator("svg.graph a", has_text="short").first.click()
    assert "/graph?id=" in page.url
    page.locator("svg.graph a", has=page.locator(".chosen")).click()
    page.locator("#s-task").wait_for()
    assert "/task?id=" in page.url
    shown(page, f"http://{context.dashboard_url}/logs")
    page.locator("tbody tr a", has_text="raylet.log").click()
    with page.expect_download() as download:
        page.get_by_text("Download", exact=True).click()
    assert download.value.suggested_filename.endswith("-raylet.log")
    assert Path(download.value.path()).stat().st_size
    assert not complaints


def test_a_link_that_is_drawn_anew_while_it_is_pressed_is_followed(
    context: NbrayContext, browser: Any
) -> None:
    nbray.get([short.remote(number) for number in range(3)], timeout=60)
    page = opened(browser, context, [])
    sockets: list[Any] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    # The hand may rest for as long as this machine needs.
    page.add_init_script("{ const real = setTimeout; setTimeout = (f, s) => real(f, s && 1e6); }")
    shown(page, f"http://{context.dashboard_url}/tasks")
    page.locator('tbody a[href="tasks?name=short"]').hover()  # in a table with their number
    page.mouse.down()
    with sockets[-1].expect_event("framereceived", lambda data: '"bodies"' in str(data)):
        nbray.get([short.remote(number) for number in range(3)], timeout=60)
    page.mouse.up()
    page.wait_for_url("**/tasks?name=short")


def test_a_page_says_when_its_dashboard_or_cluster_has_gone_and_goes_on_when_it_is_back(
    context: NbrayContext, browser: Any
) -> None:
    complaints: list[str] = []
    page = opened(browser, context, complaints)
    shown(page, f"http://{context.dashboard_url}/nodes")
    nbray.shutdown()
    page.locator("#trouble", has_text="does not answer").wait_for()
    assert page.locator("tbody tr").count() == 1, "what was known stays"


def test_a_page_says_when_its_dashboard_stands_still_and_goes_on_when_it_does(
    context: NbrayContext, browser: Any, session_root: Path
) -> None:
    complaints: list[str] = []
    page = opened(browser, context, complaints)
    shown(page, f"http://{context.dashboard_url}/nodes")
    page.evaluate("document.getElementById('trouble').dataset.was = 'here'")
    (process,) = running(session_root, "nbray.dashboard")
    stand_still(process.pid)
    try:
        page.locator("#trouble", has_text="does not answer").wait_for()
    finally:
        process.resume()
    page.locator("#trouble", has_text="does not answer").wait_for(state="hidden")
    assert page.locator("tbody tr").count() == 1
    assert page.locator("#trouble").get_attribute("data-was") == "here", "it was not loaded again"
    assert not complaints


def test_a_job_is_submitted_with_its_files_and_leads_to_its_page(
    context: NbrayContext, browser: Any, tmp_path: Path
) -> None:
    program, archive = tmp_path / "program.py", tmp_path / "files.zip"
    program.write_text("print(open('data/words').read())")
    with zipfile.ZipFile(archive, "w") as made:
        made.write(program, "program.py")
        made.writestr("data/words", "came along")
        made.writestr("data/more", os.urandom(9 << 20))  # in parts
    complaints: list[str] = []
    page = opened(browser, context, complaints)
    shown(page, f"http://{context.dashboard_url}/jobs")
    page.locator("input[name=entrypoint]").fill("python program.py")

    def submit(file: Path) -> None:
        page.locator("input[type=file]").set_input_files(file)
        page.get_by_role("button", name="Submit").click()
        page.locator(".ask button.bad").click()

    submit(program)
    page.locator(".ask", has_text="program.py is no archive").wait_for()
    submit(archive)
    page.locator("#b-job", has_text="succeeded").wait_for()
    page.locator("#b-log", has_text="came along").wait_for()
    assert "/job?id=raysubmit_" in page.url
    assert not complaints
