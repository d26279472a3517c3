"""JupyterLab in Chromium, with nothing of the user's own: a server, a notebook in a tab.

With ``NBRAY_SCREENSHOTS=FOLDER`` each step leaves a picture there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from nbray.testing import wait_until
from nbray.testing.processes import kill_all

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
PICTURES = (
    Path(os.environ["NBRAY_SCREENSHOTS"]).resolve() if "NBRAY_SCREENSHOTS" in os.environ else None
)
START = "%load_ext nbray\n%nbray start --head --num-cpus 2"
PATIENCE_MS = 60_000
"""For each step of a browser: on a busy machine its page may need many seconds for one."""
playwright.expect.set_options(timeout=PATIENCE_MS)
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


class Page:
    """One notebook in one tab."""

    def __init__(self, page: Any, path: Path, name: str) -> None:
        self.page = page
        self.path = path
        self._name = name

    def cell(self, number: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def output(self, number: int) -> Any:
        return self.cell(number).locator(".jp-Cell-outputArea")

    def start(self, number: int) -> None:
        """Run a cell without waiting for it."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        before = prompt.inner_text()

        def begun() -> bool:
            return bool(prompt.inner_text() != before)

        for _attempt in range(10):  # a key that comes while the page still settles is lost
            self._answer_dialog()
            with suppress(playwright.TimeoutError):  # a dialog that has come since is in the way
                self.cell(number).locator(".cm-content").click(timeout=5_000)
                if begun():  # late, by the key before; another one would run it twice
                    return
                self.page.keyboard.press("Control+Enter")
            deadline = time.monotonic() + 5
            while not begun() and time.monotonic() < deadline:
                self.page.wait_for_timeout(50)
            if begun():
                return
        seen = self.cell(number).inner_text()
        raise AssertionError(f"Cell {number} did not start, and shows:\n{seen}")

    def _answer_dialog(self) -> None:
        """JupyterLab may ask something while it opens; what, is in the run's warnings."""
        dialog = self.page.locator(".jp-Dialog")
        if dialog.count():
            warnings.warn(f"JupyterLab asked: {dialog.first.inner_text()}", stacklevel=2)
            dialog.first.locator(".jp-mod-accept").first.click()
            dialog.first.wait_for(state="detached")

    def run(self, number: int, timeout_s: float = 60.0) -> None:
        """Run a cell to its end."""
        self.start(number)
        self.ended(number, timeout_s)

    def ended(self, number: int, timeout_s: float = 60.0) -> None:
        """Wait until a cell has its number."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        try:
            playwright.expect(prompt).to_have_text(
                re.compile(r"\[\d+\]:"), timeout=timeout_s * 1000
            )
        except AssertionError as error:
            seen = self.cell(number).inner_text()
            raise AssertionError(f"Cell {number} did not end, and shows:\n{seen}") from error

    def answer(self, number: int, line: str, timeout_s: float = 60.0) -> None:
        """Type a line where a cell that runs asks for one."""
        field = self.output(number).locator("input").last
        field.wait_for(timeout=timeout_s * 1000)
        asked = field.element_handle()
        for _attempt in range(5):  # a key that comes while the page still settles is lost
            with suppress(playwright.Error):  # it has gone, by the key before
                asked.fill(line)
                asked.press("Enter")
            with suppress(playwright.TimeoutError):
                asked.wait_for_element_state("hidden", timeout=5_000)
                return
        seen = self.cell(number).inner_text()
        raise AssertionError(f"Cell {number} did not take {line!r}, and shows:\n{seen}")

    def shows(self, number: int, text: str | re.Pattern[str], timeout_s: float = 60.0) -> None:
        playwright.expect(self.output(number)).to_contain_text(text, timeout=timeout_s * 1000)

    def menu(self, *items: str) -> None:
        """Click through a menu."""
        self.page.locator(".lm-MenuBar-item", has_text=items[0]).first.click()
        for item in items[1:]:
            self.page.locator(".lm-Menu-item", has_text=item).first.click()

    def picture(self, step: str) -> None:
        """Keep what is seen now."""
        if PICTURES:
            PICTURES.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(PICTURES / f"{self._name}-{step}.png"))

    def saved(self) -> Any:
        """The notebook as it is in its file after a save."""
        before = self.path.stat().st_mtime_ns

        def is_saved() -> bool:
            whole = self.path.read_text().endswith("}\n")
            return whole and self.path.stat().st_mtime_ns > before

        for _attempt in range(5):  # a key that comes while the page still settles is lost
            self.page.keyboard.press("Escape")
            self.page.keyboard.press("Control+s")
            deadline = time.monotonic() + 10
            while not is_saved() and time.monotonic() < deadline:
                self.page.wait_for_timeout(50)
            if is_saved():
                return nbformat.read(self.path, as_version=4)
            self._answer_dialog()
        raise AssertionError(f"{self.path.name} was not saved")


class Lab:
    """A JupyterLab server and a browser."""

    def __init__(self, root: Path, url: str, token: str, browser: Any) -> None:
        self._root = root
        self._url = url
        self._token = token
        self._browser = browser

    def open(self, name: str, cells: list[str], dark: bool = False) -> Page:
        """A notebook with these cells, opened; its kernel is ready."""
        theme = "JupyterLab Dark" if dark else "JupyterLab Light"
        _settings(self._root, {"apputils-extension/themes": {"theme": theme}})
        path = self._root / f"{name}.ipynb"
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, path)
        context = self._browser.new_context(
            viewport={"width": 1280, "height": 1000},
            color_scheme="dark" if dark else "light",
        )
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(f"{self._url}lab/tree/{path.name}?reset&token={self._token}")
        shown = Page(page, path, name)
        shown.cell(0).wait_for(timeout=60_000)
        idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']")
        idle.first.wait_for(timeout=60_000)
        return shown


def _settings(root: Path, settings: dict[str, Any]) -> None:
    for name, values in settings.items():
        path = root / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's browser, without a window."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()


def end_with_children(server: subprocess.Popen[bytes]) -> None:
    """End a server, and what it has started and left.

    A cluster that is on its way to its end has the time for it: killed, it leaves its memory.
    """
    children = psutil.Process(server.pid).children(recursive=True)
    server.terminate()
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:  # as where a kernel was being started at that moment
        server.kill()
        server.wait()
    kill_all(psutil.wait_procs(children, timeout=30)[1])


@contextmanager
def running_lab(session_root: Path, tmp_path: Path) -> Iterator[Lab]:
    """JupyterLab on a free port, with nothing of the user's own."""
    _settings(tmp_path, SETTINGS)
    environment = {
        **os.environ,
        "NBRAY_TMPDIR": str(session_root),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    log = (tmp_path / "lab.log").open("wb")
    server = subprocess.Popen(
        [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0",
            "--ip=127.0.0.1", "--IdentityProvider.token=secret", f"--ServerApp.root_dir={tmp_path}",
            "--KernelManager.shutdown_wait_time=30",  # a killed kernel leaves its session's folder
        ],
        env=environment, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        found = tmp_path / "runtime" / f"jpserver-{server.pid}.json"

        def has_begun() -> bool:
            assert server.poll() is None, (tmp_path / "lab.log").read_text()
            # It is written in place, so that it is empty for a moment.
            return found.exists() and found.stat().st_size > 0

        wait_until(has_begun, "JupyterLab's start", timeout=60)
        url = json.loads(found.read_text())["url"]
        with chromium() as browser:
            yield Lab(tmp_path, url, "secret", browser)
    finally:
        end_with_children(server)
        log.close()
        print((tmp_path / "lab.log").read_text()[-5000:])  # shown where a test fails
