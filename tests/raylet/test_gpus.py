"""The load of GPUs, as a tool in the place of NVIDIA's tells it; none where there is no tool."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.descriptors import no_file_left

from nbray.raylet.watch import gpus as module
from nbray.raylet.watch.gpus import Gpus, figures

_TOOL = """#!/bin/sh
echo "0, 40, 1024, 16384"
echo "1, 60, 2048, 16384"
echo "2, [N/A], [N/A], 8192"
{then}
"""


def test_a_line_is_figures_and_what_is_not_told_is_left_out() -> None:
    assert figures("3, 7, 10, 100\n") == {
        "gpu3_percent": 7.0, "gpu3_memory_used": float(10 << 20),
        "gpu3_memory_total": float(100 << 20),
    }  # fmt: skip
    assert figures("0, [Not Supported], 1, [N/A]") == {"gpu0_memory_used": float(1 << 20)}


@given(st.text("0123456789, []N/A-.\n\x00é"))
def test_any_line_is_read_without_an_error_and_within_bounds(line: str) -> None:
    assert len(figures(line)) <= 3


def _tool(folder: Path, then: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(_TOOL.format(then=then))
    path.chmod(0o755)


async def _until(gpus: Gpus, count: int) -> dict[str, float]:
    async with asyncio.timeout(30):
        while len(found := gpus.stats()) != count:
            await asyncio.sleep(0.01)
    return found


def test_all_gpus_are_added_up_and_are_forgotten_with_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    _tool(tmp_path, f"while [ ! -e {tmp_path}/end ]; do sleep 0.05; done")

    async def watch() -> None:
        gpus = Gpus()
        watching = asyncio.create_task(gpus.run())
        found = await _until(gpus, 10)
        assert found["gpu_percent"] == 50.0
        assert found["gpu_memory_used"] == float(3072 << 20)
        (tmp_path / "end").touch()
        await _until(gpus, 0)
        watching.cancel()

    asyncio.run(watch())


def test_a_tool_that_cannot_be_run_for_a_moment_is_run_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    _tool(tmp_path, f"while [ ! -e {tmp_path}/end ]; do sleep 0.05; done")

    async def watch() -> None:
        gpus = Gpus()
        with no_file_left():
            watching = asyncio.create_task(gpus.run())
            while "cannot be run" not in caplog.text:
                await asyncio.sleep(0.01)
        await _until(gpus, 10)
        monkeypatch.setattr(module, "_PAUSE_S", 60.0)
        (tmp_path / "end").touch()
        await _until(gpus, 0)
        watching.cancel()

    asyncio.run(watch())


def test_without_a_tool_nothing_is_told_and_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    gpus = Gpus()
    asyncio.run(gpus.run())
    assert gpus.stats() == {}
