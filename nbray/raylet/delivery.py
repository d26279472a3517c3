"""Reports that the GCS has to get, however long that takes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeVar

from nbray.wire.grpc_service import GrpcClient, RefusedError

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0
Reply = TypeVar("Reply")


async def deliver(
    gcs: GrpcClient, method: str, request: Any, what: str, reply: type[Reply]
) -> Reply | None:
    """Call a method of the GCS until it is answered; None if this raylet is none of its own.

    It waits through a GCS that is away, and a raylet that stood still while its call ran out.
    """
    while True:
        try:
            return await gcs.call(method, request, reply)
        except RefusedError as error:
            logger.error("%s was not reported: %s", what, error)
            return None
        except Exception as error:  # an RpcError, or what else a call may run into
            logger.warning("%s is not reported yet: %r", what, error)
            await asyncio.sleep(_AGAIN_S)
