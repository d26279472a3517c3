"""Calls by gRPC whose connection is closed here fail; who waits for them is not cancelled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from nbray.wire.gcs_messages import Empty, KvKey, KvValue
from nbray.wire.grpc_service import GrpcClient, RpcError, serve

TOKEN = b"t" * 32


def echo(request: KvKey) -> KvValue:
    return KvValue(request.key)


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


def test_ten_thousand_calls_at_once_are_all_answered() -> None:
    async def scene() -> None:
        server, port = await serve("127.0.0.1", 0, TOKEN, {"Echo": (KvKey, echo)})
        client = GrpcClient(f"127.0.0.1:{port}", TOKEN)
        keys = [str(number).encode() for number in range(10_000)]
        calls = [client.call("Echo", KvKey(b"", key), KvValue, 60) for key in keys]
        assert [answer.value for answer in await asyncio.gather(*calls)] == keys
        await client.close()
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


def test_a_call_while_no_file_can_be_opened_fails_as_calls_do_or_waits(tmp_path: Path) -> None:
    code = """
import asyncio, resource, sys
from nbray.wire.gcs_messages import KvKey, KvValue
from nbray.wire.grpc_service import GrpcClient, RpcError, serve

async def scene():
    token, path = b"t" * 32, sys.argv[1]
    handlers = {"Echo": (KvKey, lambda asked: KvValue(b"a"))}
    server, port = await serve("127.0.0.1", 0, token, handlers)
    patient, other = (
        GrpcClient(f"127.0.0.1:{port}", token, patience_s, path) for patience_s in (60.0, 0.0)
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    call = asyncio.create_task(patient.call("Echo", KvKey(b"", b""), KvValue))
    try:
        await other.call("Echo", KvKey(b"", b""), KvValue)
    except RpcError as error:
        print("Too many open files" in str(error), call.done())
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    print((await call).value)
    await patient.close()
    await server.stop(None)

asyncio.run(scene())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "nobody")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True False\nb'a'\n", done.stderr
