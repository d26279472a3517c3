"""The parts of an engine that are Ray's public names, and the key-value space of its GCS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from nbray.object_ref import ObjectRef
    from nbray.state.rows import (
        ActorState,
        JobState,
        NodeState,
        PlacementGroupState,
        TaskState,
        WorkerState,
    )

ActorHandle = Any
"""What calls an actor: it has the methods of its class."""
RemoteFunction = Any
"""What ``remote`` makes of a function."""


class Names(Protocol):
    """Ray's public names, as Ray documents them. nbray's are the module `nbray` itself.

    Refs and handles are typed as nbray's, which have all that Ray's have.
    """

    ObjectRef: Any
    ObjectRefGenerator: Any
    ActorHandle: Any
    ActorClass: Any
    RemoteFunction: Any

    def get(self, object_refs: Any, /, *, timeout: float | None = None) -> Any:
        """The value of a ref, or of each of a list; GetTimeoutError after ``timeout`` seconds."""

    def put(self, value: Any, /) -> ObjectRef[Any]:
        """Store a value."""

    def wait(
        self, object_refs: Any, /, *, num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        """The refs that are ready, and the others."""

    def cancel(self, ref: Any, /, *, force: bool = False) -> Any:
        """Cancel the task of a ref."""

    def kill(self, actor: Any, /) -> Any:
        """End an actor."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """A remote function or an actor class; with options only: what makes one."""

    def get_actor(self, name: str, /, namespace: str | None = None) -> Any:
        """The actor of that name; ValueError without one."""

    def nodes(self) -> list[dict[str, Any]]:
        """Of the cluster."""

    def init(self, address: str | None = None, **options: Any) -> Any:
        """Join a cluster, or start one; takes keywords as nbray's does."""

    def is_initialized(self) -> bool:
        """Whether this process is in a cluster."""

    def shutdown(self) -> Any:
        """Leave it; one that was started here ends."""

    def get_runtime_context(self) -> Any:
        """Where the calling code runs."""

    def timeline(self) -> Any:
        """What tasks did when, as Chrome's trace viewer reads it."""


class Space(Protocol):
    """Bytes by key in the GCS, where they outlive every process and, if it is durable, the GCS's.

    On Ray: ``experimental.internal_kv``.
    """

    def put(self, key: bytes, value: bytes, *, overwrite: bool = True) -> bool:
        """Store a value, if ``overwrite`` or if there is none; whether there was one."""

    def get(self, key: bytes) -> bytes | None:
        """A key's value."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, in their order."""

    def delete(self, key: bytes, *, prefix: bool = False) -> None:
        """Delete a key, or with ``prefix`` all that begin with it."""

    def keys(self, prefix: bytes) -> list[bytes]:
        """All that begin so."""


class State(Protocol):
    """The names of ``util.state`` that the notebook uses; rows are nbray's."""

    def list_actors(self, *args: Any, **kwargs: Any) -> list[ActorState]:
        """As Ray documents it."""

    def list_jobs(self, *args: Any, **kwargs: Any) -> list[JobState]:
        """As Ray documents it."""

    def list_nodes(self, *args: Any, **kwargs: Any) -> list[NodeState]:
        """As Ray documents it."""

    def list_tasks(self, *args: Any, **kwargs: Any) -> list[TaskState]:
        """As Ray documents it."""

    def list_workers(self, *args: Any, **kwargs: Any) -> list[WorkerState]:
        """As Ray documents it."""

    def get_actor(self, *args: Any, **kwargs: Any) -> ActorState | None:
        """One actor's row, by its id."""

    def get_placement_group(self, *args: Any, **kwargs: Any) -> PlacementGroupState | None:
        """One group's row, by its id."""

    def get_log(self, *args: Any, **kwargs: Any) -> Iterable[Any]:
        """The text of a log, in parts."""
