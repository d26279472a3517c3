"""Calls by gRPC whose connection is closed here fail; who waits for them is not cancelled."""

from __future__ import annotations

import asyncio

import pytest

from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import GrpcClient, RpcError, serve

TOKEN = b"t" * 32


def test_a_call_fails_when_its_connection_is_closed_and_so_do_later_ones() -> None:
    async def scene() -> None:
        came = asyncio.Event()

        async def stand_still(_request: Empty) -> Empty:
            came.set()
            await asyncio.Event().wait()
            return Empty()

        server, port = await serve("127.0.0.1", 0, TOKEN, {"Stand": (Empty, stand_still)})
        client = GrpcClient(f"127.0.0.1:{port}", TOKEN)
        call = asyncio.create_task(client.call("Stand", Empty(), Empty, 60))
        await came.wait()
        await client.close()
        with pytest.raises(RpcError, match="closed here"):
            await call
        with pytest.raises(RpcError, match="closed here"):
            await client.call("Stand", Empty(), Empty)
        await server.stop(None)

    asyncio.run(scene())


def test_a_call_that_is_cancelled_is_cancelled() -> None:
    async def scene() -> None:
        client = GrpcClient("127.0.0.1:1", TOKEN, patience_s=60.0)
        call = asyncio.create_task(client.call("Stand", Empty(), Empty, 60))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await client.close()

    asyncio.run(scene())
