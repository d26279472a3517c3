"""IPython's ``display`` in a worker: what it shows goes to the cell that submitted the task.

Nothing of IPython is imported before user code does it; then the worker gets a shell of IPython
whose display publisher sends through the runtime. What cannot live without the worker is
sent in a form that can: figures as pictures, Bokeh plots as a page of their own, widgets as text.
"""

from __future__ import annotations

import base64
import importlib.abc
import importlib.machinery
import sys
import tempfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from nbray.notebook import engine

from ..pictures import theme

_WIDGET = "application/vnd.jupyter.widget-view+json"


def install() -> None:
    """Make the shell now if IPython is imported, else as soon as it is."""
    if "IPython" in sys.modules:
        _make_shell()
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(importlib.abc.MetaPathFinder):
    """Finds IPython as the path does, and makes the shell when it has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "IPython":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _make_shell()


def _make_shell() -> None:
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config

    if InteractiveShell.initialized():
        return

    class Publisher(DisplayPublisher):
        """Sends what is displayed to the driver."""

        def publish(
            self,
            data: dict[str, Any],
            metadata: dict[str, Any] | None = None,
            *_source: str,
            transient: dict[str, Any] | None = None,
            update: bool = False,
            **_more: Any,
        ) -> None:
            engine().output.display(
                "update_display_data" if update else "display_data",
                {
                    "data": _static(data),
                    "metadata": metadata or {},
                    "transient": transient or {},
                },
            )

        def clear_output(self, wait: bool = False) -> None:
            engine().output.display("clear_output", {"wait": wait})

    class WorkerShell(InteractiveShell):
        """IPython in a worker: no history, no prompt, no profile."""

        display_pub_class = Type(Publisher)

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    with tempfile.TemporaryDirectory(prefix="nbray-ipython-") as folder:  # for its start only
        shell = WorkerShell.instance(
            config=config, ipython_dir=folder, user_module=sys.modules["__main__"], user_ns={}
        )
    assert shell.display_formatter is not None
    formatters = shell.display_formatter.formatters
    formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", _figure)
    formatters["text/html"].for_type_by_name("bokeh.models.layouts", "LayoutDOM", bokeh_frame)


def static_bundle(value: Any) -> dict[str, Any]:
    """What IPython would display of ``value``, in a form that needs nothing of this worker."""
    install()
    from IPython.core.interactiveshell import InteractiveShell

    formatter = InteractiveShell.instance().display_formatter
    assert formatter is not None
    data, _metadata = formatter.format(value)  # type: ignore[no-untyped-call]
    return _static(data)


def _static(data: dict[str, Any]) -> dict[str, Any]:
    """A bundle that needs nothing of the worker."""
    bundle = {
        mime: base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
        for mime, value in data.items()
        if mime != _WIDGET
    }
    if _WIDGET in data and "text/html" not in bundle:
        text = bundle.get("text/plain", "a widget")
        bundle["text/html"] = theme.card(
            f"<code>{theme.escape(text)}</code><br>"
            + theme.muted("A widget's state when it was shown; it lives in a worker."),
            "widget",
        )
    return bundle


def _figure(figure: Any) -> Any:
    from IPython.core.pylabtools import print_figure

    return print_figure(figure, fmt="png", base64=True)  # type: ignore[no-untyped-call]


def bokeh_frame(plot: Any) -> str:
    """The plot as a page in a frame: it works in a saved notebook, and without a network.

    It has the colour scheme of the page in it: else a browser paints a ground of its own.
    """
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    page = file_html(plot, INLINE, "plot")
    height = (getattr(plot, "height", None) or 600) + 20
    return (
        f'<iframe srcdoc="{theme.escape(page)}" style="border:0;width:100%;'
        f'height:{height}px;color-scheme:light">'
        "</iframe>"
    )
