"""VS Code in Chromium, as code-server brings it: a saved notebook in its own renderers, no kernel.

``npm install code-server`` needs the Node.js that it names; ``NBRAY_CODE_SERVER`` is the command,
where it is not found on the path.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbray.testing import wait_until

from .jupyterlab import chromium, end_with_children

CODE_SERVER = os.environ.get("NBRAY_CODE_SERVER") or shutil.which("code-server")
_THEMES = {"light": "Default Light Modern", "dark": "Default Dark Modern"}
_SETTINGS = {
    "security.workspace.trust.enabled": False,
    "workbench.startupEditor": "none",
    "workbench.editorAssociations": {"*.ipynb": "jupyter-notebook"},
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "telemetry.telemetryLevel": "off",
    "extensions.autoCheckUpdates": False,
}
_ADDRESS = re.compile(r"listening on (http://\S+)/")


@contextmanager
def opened_notebook(path: Path, ground: str, folder: Path) -> Iterator[Any]:
    """The page on which VS Code shows a notebook; ``folder`` takes all that it writes."""
    assert CODE_SERVER is not None
    settings = folder / "data" / "User" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({**_SETTINGS, "workbench.colorTheme": _THEMES[ground]}))
    log = folder / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [
                CODE_SERVER, "--auth=none", "--bind-addr=127.0.0.1:0", "--disable-telemetry",
                "--disable-update-check", f"--user-data-dir={folder / 'data'}",
                f"--extensions-dir={folder / 'extensions'}", str(path.parent),
            ],
            env={**os.environ, "HOME": str(folder)}, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        wait_until(lambda: _ADDRESS.search(log.read_text()), "the start of code-server", timeout=60)
        found = _ADDRESS.search(log.read_text())
        assert found is not None
        url = found[1]
        place = f"vscode-remote://{url.removeprefix('http://')}{path}"
        with chromium() as browser:
            page = browser.new_context(viewport={"width": 1200, "height": 1500}).new_page()
            page.goto(f'{url}/?folder={path.parent}&payload=[["openFile","{place}"]]')
            page.locator(".notebookOverlay .monaco-list-row").first.wait_for(timeout=150_000)
            yield page
    finally:
        end_with_children(server)
