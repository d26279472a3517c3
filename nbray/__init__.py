"""nbray: a cluster for a notebook, with Ray's programming model."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nbray.common.importing import current_folder_last

if TYPE_CHECKING:
    from nbray.public import *  # noqa: F403 - public.__all__ has them

# Those that programs for Ray use without importing them.
_MODULES = {
    "actor", "autoscaler", "cloudpickle", "cluster_utils", "compat", "dag", "experimental",
    "job_config", "remote_function", "runtime_context", "runtime_env", "types", "util",
}  # fmt: skip


def _public() -> ModuleType:
    with current_folder_last():
        return import_module(f"{__name__}.public")


def __getattr__(name: str) -> Any:
    """What a program names, once it does."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name == "__all__":
        return _public().__all__
    if not name.startswith("_") or name == "__version__":
        public = vars(_public())
        names = public.get("__all__", ())  # none yet while it is imported, and asks for a module
        if name in names:
            globals().update({one: public[one] for one in names})
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_public().__all__, *_MODULES})


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext nbray``: the magics."""
    import_module(f"{__name__}.jupyter_ext").load_ipython_extension(ipython)
