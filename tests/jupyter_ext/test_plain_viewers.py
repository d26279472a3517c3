"""Saved outputs without widgets, scripts and the styles of JupyterLab, as VS Code shows them."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support.jupyterlab import CHROMIUM, PICTURES, playwright
from support.vscode import CODE_SERVER, opened_notebook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
CELLS = [
    "import sys\nsys.modules['ipywidgets'] = sys.modules['anywidget'] = None\n%load_ext nbray",
    "%nbray start --head --num-cpus 2",
    "import nbray, time\n@nbray.remote\ndef part(i):\n    print('part', i)\n    time.sleep(0.4)\n"
    "    return i\nnbray.get([part.remote(i) for i in range(12)])",
    "ref = nbray.put([1, 2])\nref",
    "@nbray.remote\nclass Counter:\n    def n(self): return 1\ncounter = Counter.remote()\ncounter",
    "%%remote --profile\ndef busy(n):\n    return sum(i * i for i in range(n))\nbusy(3_000_000)",
    "%%remote\nimport matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nlarge = bytes(1_000_000)",
    "globals()['large']",
    "%%remote --cache\nanswer = 42\nanswer",
    "%nbray cache why",
    "%%remote --detach train\nprint('epoch', 1)\nloss = 0.25",
    "%nbray attach train",
    "%nbray results",
    "%nbray who",
    "%nbray status",
    "%nbray stream In[3]",
    "%nbray tasks",
    "%nbray dashboard",
    "%nbray help",
]
"""The last ones have tables and pictures of all kinds."""
_ORDER = ("text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain")
_GROUND = {"light": ("#ffffff", "#3b3b3b"), "dark": ("#1e1e1e", "#cccccc")}
_FAINT = """
() => {
    const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const shine = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
        v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
    ).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = element => {
        const box = element.previousElementSibling;
        if (box && box.tagName === 'rect') return parse(getComputedStyle(box).fill);
        for (let e = element; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] > 0.9) return colour;
        }
        return [255, 255, 255];
    };
    const faint = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement;
        const text = walk.currentNode.textContent.trim();
        const tag = element.tagName.toLowerCase();
        if (!text || ['style', 'title', 'script', 'noscript'].includes(tag)) continue;
        const style = getComputedStyle(element);
        const colour = parse(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
        const [a, b] = [shine(colour), shine(ground(element))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 2.5) faint.push(text.slice(0, 40));
    }
    return [faint, document.documentElement.scrollWidth > window.innerWidth + 1];
}
"""


_FIT = """
() => document.querySelectorAll('iframe').forEach(
    f => f.height = f.contentDocument.documentElement.scrollHeight + 4)
"""


@pytest.fixture(scope="module")
def saved_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("plain")
    root = tmp_path_factory.mktemp("pl")
    root.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBRAY_TMPDIR", str(root))
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in [*CELLS, "%nbray stop"]]
        )
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=120, resources=resources).execute()
        path = folder / "saved.ipynb"
        nbformat.write(notebook, path)
        yield path


@pytest.fixture
def saved(saved_file: Path) -> Any:
    """A notebook as it is in its file after its cells have run in a kernel without widgets."""
    return nbformat.read(saved_file, as_version=4)


def _outputs(saved: Any) -> Iterator[tuple[str, Any]]:
    """All outputs; text that follows text is one, as front ends save it."""
    for cell in saved.cells:
        joined: list[Any] = []
        for output in cell.outputs:
            name = output.get("name")
            if name is not None and joined and joined[-1].get("name") == name:
                joined[-1] = {**joined[-1], "text": joined[-1]["text"] + output["text"]}
            else:
                joined.append(dict(output))
        for output in joined:
            yield cell.source, output


def test_all_that_is_shown_has_text_and_needs_neither_a_widget_nor_a_script(saved: Any) -> None:
    for source, output in _outputs(saved):
        assert output["output_type"] != "error", (source, output)
        data = output.get("data")
        if data is None:
            assert "Error" not in output["text"], (source, output["text"])
            continue
        assert data.get("text/plain", "").strip(), source
        assert "widget-view" not in str(list(data)), source
        shown = data.get("text/html", "") + data.get("image/svg+xml", "")
        for word in ("<script", "javascript:", "onclick", "onload", "<link", "@import"):
            assert word not in shown.lower(), (source, word)


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_it_is_read_on_either_ground_without_scripts(
    saved: Any, ground: str, tmp_path: Path
) -> None:
    below, text = _GROUND[ground]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=60_000
        )
        # VS Code tells the theme by its own variables, not by what the browser prefers.
        context = browser.new_context(
            viewport={"width": 900, "height": 1200},
            color_scheme="light" if ground == "dark" else "dark",
        )  # fmt: skip
        page = context.new_page()
        page.set_content(_page(saved, below, text))
        page.evaluate(_FIT)
        if PICTURES:
            PICTURES.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(PICTURES / f"plain-{ground}.png"), full_page=True)
        frames = page.frames[1:]
        assert len(frames) == sum(1 for _ in _outputs(saved))
        for (source, _output), frame in zip(_outputs(saved), frames, strict=True):
            faint, is_wide = frame.evaluate(_FAINT)
            assert not faint, (source, faint)
            assert not is_wide, source
        browser.close()


@pytest.mark.skipif(CODE_SERVER is None, reason="there is no VS Code: npm install code-server")
@pytest.mark.parametrize("ground", ["light", "dark"])
def test_vs_code_shows_all_of_it_without_a_kernel(
    saved_file: Path, ground: str, tmp_path: Path
) -> None:
    wanted = {
        "1 node", "12/12", "ObjectRef", "Actor Counter", "Profile of", "bytes of 1000000",
        "the answer is kept", "Detached as train", "epoch 1", "nbray is stopped",
    }  # fmt: skip
    # Its frames have no ground of their own: it is that of the editor below them.
    faint = _FAINT.replace("[255, 255, 255]", "[31, 31, 31]") if ground == "dark" else _FAINT
    with opened_notebook(saved_file, ground, tmp_path) as page:
        for step in range(80):
            for frame in page.frames[1:]:
                text = frame.evaluate("() => document.body ? document.body.innerText : ''")
                wanted = {word for word in wanted if word not in text}
                found, _ = frame.evaluate(faint)
                assert not found, found
            if PICTURES:
                PICTURES.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=str(PICTURES / f"vscode-{ground}-{step:02d}.png"))
            if not wanted:
                break
            page.mouse.move(600, 800)
            for _ in range(5):
                page.mouse.wheel(0, 1250)
                page.wait_for_timeout(100)
        assert not wanted


def _page(saved: Any, below: str, text: str) -> str:
    """Each output in a frame of its own, in which nothing runs, as large as a picture needs."""
    style = (
        f"<style>body {{ background: {below}; color: {text}; margin: 4px; overflow-x: auto;"
        " font-family: sans-serif; font-size: 13px } pre { overflow-x: auto; margin: 0 }"
        " img, svg { max-width: 100% }</style>"
    )
    parts = []
    for source, output in _outputs(saved):
        body = html.escape(style + _shown(output), quote=True)
        frame = f'<iframe sandbox="allow-same-origin" width="860" height="20" srcdoc="{body}">'
        parts.append(f"<pre>{html.escape(source)}</pre>{frame}</iframe>")
    return style + "".join(parts)


def _shown(output: Any) -> str:
    data = output.get("data")
    if data is None:
        return f"<pre>{html.escape(output['text'])}</pre>"
    kind = next(kind for kind in _ORDER if kind in data)
    if kind == "image/png":
        return f'<img src="data:image/png;base64,{data[kind].strip()}">'
    if kind in ("text/html", "image/svg+xml"):
        return str(data[kind])
    return f"<pre>{html.escape(data[kind])}</pre>"
