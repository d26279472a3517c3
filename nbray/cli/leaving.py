"""How a node leaves that a command holds: drained when the job is about to end, or by others.

Slurm tells a job some time before its walltime, if it is asked to (``--signal=USR1@120``): to all
its processes, so those of the node ignore it, and the command that holds the node drains it. One
that comes while the node starts waits until the command can.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from nbray.common.process import NOTICES
from nbray.common.session import GCS
from nbray.launcher.local import RunningNode
from nbray.state import queries
from nbray.wire.credentials import read_identity
from nbray.wire.grpc_service import GrpcClient, RefusedError, RpcError
from nbray.wire.scaling_messages import Drained, DrainNode

_ASK_S = 10.0
_AGAIN_S = 2.0
_DRAINED = "drained: "


@contextmanager
def notices_wait() -> Iterator[None]:
    """Notices that come meanwhile are delivered after it; the node that is started ignores them.

    They stay blocked if that fails: the process would end by one before it has said why.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)
    yield  # the node's processes see that they are blocked: see `ignore_blocked_notices`
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)


class Drain:
    """Has a node that is no head drained since a notice came, and says what comes of it.

    Args:
        node: what the notice is about.
        tell: takes a line about it.
    """

    def __init__(self, node: RunningNode, tell: Callable[[str], None]) -> None:
        self._node = node
        self._tell = tell
        self._not_before = 0.0

    def ask(self, number: int) -> bool:
        """Ask for it once; whether that has come to an end, or is to be asked again.

        Whoever stands still for a moment is asked again: what is here would end with the job.
        """
        if time.monotonic() < self._not_before:
            return False
        name = signal.Signals(number).name
        request = DrainNode(bytes.fromhex(self._node.node_id), f"{name}: its job is about to end")
        try:
            answer = _call(self._node, "DrainNode", request)
        except RefusedError as error:
            answer = Drained(False, str(error))
        except RpcError as error:
            answer = Drained(False, str(error), silent=True)
        self._not_before = time.monotonic() + _AGAIN_S
        if answer.accepted:
            said = "No new work starts on this node, what runs goes on, and its values move to "
            self._tell(f"{name}: the job is about to end. {said}other nodes.")
        elif answer.silent:
            said = "and the node could not be drained so far"
            self._tell(f"{name}: the job is about to end, {said}: {answer.why}")
        else:
            self._tell(f"{name}: the job is about to end. {answer.why}")
        return not answer.silent


def _call(node: RunningNode, method: str, request: DrainNode) -> Drained:
    async def call() -> Drained:
        client = GrpcClient(node.gcs_address, node.session.token, near=node.session.calls_path(GCS))
        try:
            return await client.call(method, request, Drained, _ASK_S)
        finally:
            await client.close()

    read_identity(node.session)
    with ThreadPoolExecutor(1) as thread:  # signal handlers stay with the main thread
        return thread.submit(asyncio.run, call()).result()


def was_drained(node: RunningNode) -> str:
    """Why a node was drained that has ended; empty if it was not."""

    async def ask() -> bytes:
        client = GrpcClient(node.gcs_address, node.session.token, near=node.session.calls_path(GCS))
        try:
            return await client.call_raw(queries.NODES.method, queries.NODES.body, _ASK_S)
        finally:
            await client.close()

    read_identity(node.session)
    try:
        rows = queries.NODES.read(asyncio.run(ask()))
    except RpcError:
        return ""
    said = next((row.state_message or "" for row in rows if row.node_id == node.node_id), "")
    return said.removeprefix(_DRAINED) if said.startswith(_DRAINED) else ""
