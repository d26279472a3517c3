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
    """Register magics, the resolving of remote names and the output handler."""
    from nbray.jupyter_ext.magics import NbrayMagics, ResolveOnUse
    from nbray.jupyter_ext.output import OutputRouter
    from nbray.util.output import set_output_handler

    if any(isinstance(transformer, ResolveOnUse) for transformer in shell.ast_transformers):
        return
    router = OutputRouter(getattr(shell, "kernel", None))
    shell.register_magics(NbrayMagics(shell, router))
    shell.ast_transformers.append(ResolveOnUse(shell.user_ns))
    shell.events.register("pre_run_cell", router.before_cell)
    set_output_handler(router)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Undo `load_ipython_extension`; the magics stay defined until the kernel restarts."""
    from nbray.jupyter_ext.magics import ResolveOnUse
    from nbray.jupyter_ext.output import OutputRouter
    from nbray.util.output import set_output_handler

    shell.ast_transformers[:] = [
        transformer
        for transformer in shell.ast_transformers
        if not isinstance(transformer, ResolveOnUse)
    ]
    for callback in list(shell.events.callbacks["pre_run_cell"]):
        if isinstance(getattr(callback, "__self__", None), OutputRouter):
            shell.events.unregister("pre_run_cell", callback)
    set_output_handler(None)
