"""Ray as the engine behind a notebook: each part of `nbray.notebook` by what Ray has for it."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import ray
from ray.actor import ActorClass, ActorHandle
from ray.remote_function import RemoteFunction
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nbray import cloudpickle
from nbray.notebook import Asides, Cluster, Code, Engine, Names, Output, Space, State, Tasks

from . import calls, refusals, rows, worker
from .cluster import RayCluster, check
from .errors import translated
from .gate import Gate
from .mail import Mail
from .no_asides import NoAsides
from .shelf import ShelfSpace
from .tracking import Submitted
from .watching import GcsWatch

logger = logging.getLogger(__name__)

_LARGE = 100 * 1024
_SHUT_S = 15.0
_HEAD = "node:__internal_head__"
_ACTOR = re.compile(r"\((?P<name>.*), (?P<id>[0-9a-f]+)\)")
_Wrapper = Callable[[Any], Any]


class _Code:
    """How functions are pickled. `nbray.notebook.Code` is met by it."""

    def __init__(self) -> None:
        self._wrapper: _Wrapper | None = None
        self._pickles: dict[Any, Any] = {}

    def new_cell(self) -> None:
        """See `nbray.notebook.Code`. Functions from before the notebook came are known now."""
        calls.Epoch.number += 1
        self._pickles.clear()
        for value in list(vars(sys.modules["__main__"]).values()):
            calls.told(value)

    def wrap(self, wrapper: _Wrapper | None) -> None:
        """See `nbray.notebook.Code`."""
        self._wrapper = wrapper
        self._pickles.clear()

    def pickled(self, target: Any) -> Any:
        """The pickle of a function, or the ref of a large one, once in a cell."""
        if target not in self._pickles:
            data = cloudpickle.dumps(target if self._wrapper is None else self._wrapper(target))
            self._pickles[target] = ray.put(data) if len(data) > _LARGE else data
        return self._pickles[target]


class _Sent:
    """A remote function of the notebook's own: nbray pickles it, and Ray carries the bytes."""

    def __init__(self, target: Any, code: _Code, run: Any, watch: GcsWatch) -> None:
        self._target = target
        self._code = code
        self._run = run
        self._watch = watch

    def options(self, **options: Any) -> _Sent:
        """As Ray's."""
        options.setdefault("name", self._target.__name__)
        return _Sent(self._target, self._code, self._run.options(**options), self._watch)

    def remote(self, *arguments: Any) -> Any:
        """As Ray's."""
        self._watch.check()
        return self._run.remote(self._code.pickled(self._target), *arguments)


class _Names(worker.Names):
    """Ray's public names, whose errors are nbray's."""

    def __init__(self, cluster: RayCluster, code: _Code, watch: GcsWatch) -> None:
        self._code = code
        self._watch = watch
        self.init = cluster.init
        self.shutdown = cluster.shutdown
        self.is_initialized = cluster.is_initialized

    def remote(self, *args: Any, **options: Any) -> Any:
        """As Ray's; a function is pickled by nbray, with what it needs of the notebook."""
        self._watch.check()
        plain = ray.remote.original if isinstance(ray.remote, calls.Remote) else ray.remote
        if args and isinstance(args[0], FunctionType):
            return _Sent(args[0], self._code, plain(worker.run), self._watch)
        return plain(*args, **options)

    def get(self, refs: Any, *, timeout: float | None = None) -> Any:
        """As Ray's."""
        try:
            return ray.get(refs, timeout=timeout)
        except ray.exceptions.RayError as error:
            raise translated(error) from None

    def put(self, value: Any) -> Any:
        """As Ray's."""
        self._watch.check()
        try:
            return ray.put(value)
        except ray.exceptions.RayError as error:
            raise translated(error) from None


class _Ray:
    name = "ray"
    placement_group: type = PlacementGroup
    handles: tuple[type, ...] = (
        ray.ObjectRef, ActorHandle, ActorClass, RemoteFunction,
    )  # fmt: skip
    memory = worker.Copies
    errors: tuple[type[BaseException], ...] = (ray.exceptions.RayError,)
    error = staticmethod(translated)

    def __init__(self) -> None:
        gate = Gate()
        submitted = Submitted(gate, lambda: mail.cell_here())
        mail = Mail(gate, submitted.cell_of)
        watch = GcsWatch(check, mail.warn)
        rows.know_cells(submitted.cell_of)

        def opened(office: Any, root: str) -> None:
            calls.tell(submitted.submitted)
            calls.install()
            gate.open()
            mail.open(office, root)
            if not ray.util.client.ray.is_connected():
                watch.begin(ray.get_runtime_context().gcs_address)

        def closed() -> None:
            watch.end()
            calls.tell(None)
            calls.uninstall()
            mail.close()
            if not gate.shut(_SHUT_S):
                logger.warning("Ray is left while something still asks it.")
            submitted.forget()

        cluster = RayCluster(opened, closed)
        code = _Code()
        self.output: Output = mail
        self.tasks: Tasks = submitted
        self.cluster: Cluster = cluster
        self.code: Code = code
        self.api: Names = _Names(cluster, code, watch)
        self.state: State = rows
        self.asides: Asides = NoAsides()
        self.space: Space = ShelfSpace(self.api, self.near_head)

    def on_node(self, node_id: str) -> Any:
        """See `nbray.notebook.Engine`."""
        return NodeAffinitySchedulingStrategy(node_id, soft=False)

    def user_environment(self) -> Mapping[str, Any]:
        """See `nbray.notebook.Engine`: the engine brings the job's, which is of its notebook."""
        return {}

    def near_head(self) -> Any:
        """See `nbray.notebook.Engine`."""
        heads = [node["NodeID"] for node in ray.nodes() if _HEAD in node["Resources"]]
        return NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else None

    def actor_words(self, handle: Any) -> tuple[str, str, list[str]]:
        """See `nbray.notebook.Engine`: as the handle itself says them."""
        found = _ACTOR.search(repr(handle))
        name, actor_id = (found["name"], found["id"]) if found else ("", "")
        return name, actor_id, [one for one in dir(handle) if not one.startswith("_")]

    def refusal(self, what: str) -> str:
        """See `nbray.notebook.Engine`."""
        if why := refusals.REFUSED.get(what):
            return f"{what} is not there with Ray as the engine: {why}."
        why = refusals.REFUSED_FROM_AFAR.get(what)
        is_far = why is not None and ray.util.client.ray.is_connected()
        return f"{what} is not there through Ray's client: {why}." if is_far else ""


ENGINE: Engine = _Ray()
