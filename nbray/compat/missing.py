"""What Ray has and nbray has not, and what to do instead."""

from __future__ import annotations

GUIDE = "docs/coming-from-ray.md"

_BY_INIT = "nbray.init('ray://HOST:10001') joins a cluster from afar"
_INSTEAD = {
    "air": "Ray's libraries are not part of nbray",
    "autoscaler": "of the autoscaler, programs have autoscaler.sdk; the rest is nbray's own",
    "client_builder": _BY_INIT,
    "cross_language": "nbray runs Python only",
    "data": "Ray's libraries are not part of nbray",
    "llm": "Ray's libraries are not part of nbray",
    "rllib": "Ray's libraries are not part of nbray",
    "serve": "Ray's libraries are not part of nbray",
    "train": "Ray's libraries are not part of nbray",
    "tune": "Ray's libraries are not part of nbray",
    "workflow": "Ray's libraries are not part of nbray",
    "client": _BY_INIT,
    "util.connect": _BY_INIT,
    "util.actor_group": "nbray has no groups of actors; util.ActorPool does their work",
    "util.collective": "nbray has no collective operations between actors",
    "util.iter": "nbray has no parallel iterators; util.map_unordered does their work",
    "util.rpdb": "breakpoint() in a task stops in its notebook's cell; there is no other one",
    "util.spark": "nbray starts no cluster on Spark",
    "util.tracing": "nbray sends no OpenTelemetry traces; nbray.timeline() draws what ran",
}


def what_instead(path: str) -> str:
    """One sentence on ``path`` ("data", "util.dask"), a module or a name of Ray's."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        known = _INSTEAD.get(".".join(parts[:end]))
        if known:
            return f"{known} ({GUIDE})."
    return f"{GUIDE} says what of Ray is here."


def missing_module(name: str) -> ModuleNotFoundError:
    """The error of an import of ``name`` ("ray.data"). It names the module that nbray lacks, so
    that ``from ray import data`` tells it, too."""
    path = name.partition(".")[2]
    return ModuleNotFoundError(
        f"No module named {name!r}: nbray stands for ray here and has no nbray.{path}. "
        f"{what_instead(path)}",
        name=f"nbray.{path}",
    )


def missing_name(module: str, name: str) -> AttributeError:
    """The error of a name that a module of nbray lacks, asked for by Ray's name."""
    path = f"{module}.{name}".partition(".")[2]
    return AttributeError(
        f"module {module!r} has no attribute {name!r}: nbray stands for ray here. "
        f"{what_instead(path)}",
        name=name,
    )
