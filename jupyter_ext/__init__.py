"""nbray in a notebook: ``%load_ext nbray`` brings ``%nbray`` and ``%%remote``.

Magics, cell analysis, remote names and the way output finds its cell. Only the public API
of nbray is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register magics, completion, the resolving of remote names and the output handler."""
    from nbray.notebook import engine

    from .cell.shipping import Shipped
    from .line.completion import install_completers
    from .line.magics import NbrayMagics, ResolveOnUse, set_workspace
    from .output.router import OutputRouter
    from .worker.home import set_notebook
    from .workspace import Workspace

    if any(isinstance(transformer, ResolveOnUse) for transformer in shell.ast_transformers):
        return
    router = OutputRouter(getattr(shell, "kernel", None), lambda: _next_label(shell))
    workspace = Workspace(shell, router)
    set_workspace(workspace)
    set_notebook(shell.user_ns)
    shell.register_magics(NbrayMagics(workspace))
    shell.ast_transformers.append(ResolveOnUse(workspace))
    shell.events.register("pre_run_cell", router.before_cell)
    shell.events.register("pre_run_cell", workspace.before_cell)
    shell.events.register("post_run_cell", workspace.after_cell)
    shell.events.register("post_run_cell", router.after_cell)
    workspace.errors.install()
    workspace.formatters.install(shell)
    install_completers(shell, workspace)
    router.before_cell()
    engine().output.listen(router)
    engine().asides.listen(workspace.aside)
    engine().code.wrap(lambda target: workspace.modules.wrap(Shipped(target)))


def _next_label(shell: InteractiveShell) -> str:
    """The cell that is about to run: history has those before it, whatever IPython counts."""
    history = shell.history_manager
    return f"In [{len(history.input_hist_parsed)}]" if history is not None else ""


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Undo `load_ipython_extension`; the magics stay defined until the kernel restarts."""
    from nbray.notebook import engine

    from .line.completion import uninstall_completers
    from .line.magics import ResolveOnUse, set_workspace
    from .output.router import OutputRouter
    from .worker.home import set_notebook
    from .workspace import Workspace

    shell.ast_transformers[:] = [
        transformer
        for transformer in shell.ast_transformers
        if not isinstance(transformer, ResolveOnUse)
    ]
    for event in ("pre_run_cell", "post_run_cell"):
        for callback in list(shell.events.callbacks[event]):
            owner = getattr(callback, "__self__", None)
            if isinstance(owner, OutputRouter | Workspace):
                shell.events.unregister(event, callback)
            if isinstance(owner, Workspace):
                owner.errors.uninstall()
                owner.formatters.uninstall(shell)
            if isinstance(owner, OutputRouter):
                owner.close()
    uninstall_completers(shell)
    set_workspace(None)
    set_notebook(None)
    engine().output.listen(None)
    engine().asides.listen(None)
    engine().code.wrap(None)
