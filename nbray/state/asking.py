"""How a question reaches the cluster, and what is missing in its answer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TypeVar

from nbray.common.timeouts import as_seconds
from nbray.core_worker.current import find_core
from nbray.core_worker.run.output import current_output
from nbray.exceptions import GetTimeoutError
from nbray.state import queries as q
from nbray.state.rows import ObjectList, TaskList
from nbray.state.selecting import MAX_LIMIT, Filter, StateApiException

T = TypeVar("T")

_RAYLET_ANSWERS_S = 5.0
_AGAIN_S = 0.2
_RAYLETS_SHARE = 0.6  # of the time that there is; the GCS itself has the rest


def ask(query: q.Query[T], address: str | None, timeout: float | None) -> T:
    """Ask through this process's raylet, or the GCS itself; see the head of the package.

    A driver whose raylet stands still asks the GCS, within the same ``timeout``; one that is being
    started again is asked when it is back.

    Raises:
        StateApiException: the cluster did not answer. ConnectionError: there is none.
        TypeError, ValueError: ``timeout`` is no number of seconds.
    """
    timeout = as_seconds(timeout)
    if address == "auto":
        address = None
    deadline = time.monotonic() + timeout
    core = find_core()
    if core is not None and address is None:
        patience = min(timeout * _RAYLETS_SHARE, _RAYLET_ANSWERS_S)
        try:
            return query.read(core.peers.gcs_call(query.method, query.body, patience))
        except GetTimeoutError as error:
            if current_output() is not None:  # a worker
                raise StateApiException(str(error)) from error
    from nbray.state.client import ask_once, find_cluster  # gRPC: never in a worker's template
    from nbray.wire.grpc_service import RefusedError, RpcError

    own = core if address is None else None
    while True:
        try:
            if own is not None:
                found = own.session.read_info()["gcs_address"], own.session.token
            else:
                found = find_cluster(address)
            return ask_once(*found, query, max(0.0, deadline - time.monotonic()))
        except RpcError as error:
            may_come = own is not None and not isinstance(error, RefusedError)
            if not may_come or time.monotonic() + _AGAIN_S > deadline:
                raise StateApiException(str(error)) from error
        time.sleep(_AGAIN_S)


def find_tasks(
    address: str | None, filters: Sequence[Filter] | None, timeout: float, complete: bool,
    limit: int = MAX_LIMIT,
) -> TaskList:  # fmt: skip
    """Tasks that the cluster knows; what filters say of jobs and origins, it is told.

    At most ``limit`` unfinished ones of each process, and ended ones of each node.

    Raises:
        StateApiException: with ``complete``, a node did not answer.
    """
    exact = {key: str(value) for key, predicate, value in filters or () if predicate == "="}
    job_id = exact.get("job_id", "")
    try:
        query = q.tasks(limit, bytes.fromhex(job_id), int(exact.get("origin", 0)))
    except ValueError as error:
        raise StateApiException(f"A filter's value is impossible: {error}") from error
    found = ask(query, address, timeout)
    _check_complete("tasks", found.missing, complete)
    if found.silent:
        warnings.warn(
            f"{found.silent} process(es) did not answer in time: what runs in them is listed as "
            "SUBMITTED_TO_WORKER, and what they submitted may be missing.",
            stacklevel=3,
        )
    return found


def _check_complete(what: str, missing: list[str], complete: bool) -> None:
    if missing and complete:
        raise StateApiException(
            f"Failed to retrieve all {what} from the cluster: {'; '.join(missing)}. "
            "Pass raise_on_missing_output=False to take the others."
        )


def find_objects(address: str | None, limit: int, timeout: float, complete: bool) -> ObjectList:
    """The ``limit`` largest objects of every process, and the processes.

    Raises:
        StateApiException: with ``complete``, a node or process did not answer.
    """
    found = ask(q.objects(limit), address, timeout)
    _check_complete("objects", found.missing, complete)
    return found
