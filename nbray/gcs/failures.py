"""The newest failures of the cluster, for the state API; forgotten with the process."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from nbray.wire import state_messages as s
from nbray.wire.causes import Cause
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import Handler
from nbray.wire.records import ActorSpec, NodeInfo

_KEPT = 200


class Failures:
    """A ring of what failed without being told to."""

    def __init__(self) -> None:
        self._failures: deque[s.Failure] = deque(maxlen=_KEPT)

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "RecentFailures": (Empty, self._recent),
            "ReportFailure": (s.Failure, self._report),
        }

    def node(self, node: NodeInfo, cause: str) -> None:
        """A node was declared dead."""
        self._failures.append(
            s.Failure("node", node.node_id, node.node_id, node.host, cause, time.time())
        )

    def actor(self, spec: ActorSpec, node_id: bytes, cause: Cause) -> None:
        """An actor died and does not come back, without being told to."""
        self._failures.append(
            s.Failure("actor", spec.actor_id, node_id, spec.class_name, str(cause), time.time())
        )

    async def _recent(self, _request: Empty) -> s.Failures:
        return s.Failures(list(self._failures))

    async def _report(self, failure: s.Failure) -> Empty:
        self._failures.append(failure)
        return Empty()
