"""One detached cell and two notebooks: both look, one is interrupted, restarted, or drops it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.detached import STEPS, attached_kernel, lasting_cluster, steps_of
from support.kernel import Notebook
from support.stopping import stand_still

from nbray.testing import own_sessions

pytestmark = pytest.mark.slow

Two = tuple[Notebook, Notebook]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Two kernels in a cluster that hangs on neither."""
    with pytest.MonkeyPatch.context() as patch, own_sessions():
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        with lasting_cluster(), attached_kernel() as first, attached_kernel() as second:
            yield first, second


def test_both_see_it_whole_though_one_is_interrupted_and_restarted(
    two: Two, tmp_path: Path
) -> None:
    first, second = two
    stop = tmp_path / "stop"
    steps = STEPS.format(str(stop))
    first.run(f"%%remote --detach shared\n{steps}big = bytes(1_000_000)\nn = i")
    lives = [first.start("%nbray attach shared"), second.start("%nbray attach shared")]
    for notebook, live in zip(two, lives, strict=True):
        notebook.wait(lambda live=live: "step 2\n" in live.printed, "its output")
    first.manager.interrupt_kernel()
    first.wait(lambda: lives[0].idle, "the prompt")
    assert "Let go of shared, which goes on in the cluster" in lives[0].error
    first.manager.restart_kernel(now=True)
    first.ready()
    first.run("%load_ext nbray\n%nbray attach")
    again = first.start("%nbray attach shared")
    first.wait(lambda: len(steps_of(again.printed)) > 3, "its output")
    stop.touch()
    for notebook, live in ((first, again), (second, lives[1])):
        notebook.wait(lambda live=live: live.idle, "its end")
        lines = steps_of(live.printed)
        assert lines == [f"step {i}" for i in range(len(lines))]
        assert notebook.run(f"n + 1 == {len(lines)}").result == "True", live.printed
    assert again.printed == lives[1].printed
    # What one has brought stays with it when the other drops the cell.
    assert second.run("%nbray results shared --drop").printed == "shared is forgotten.\n"
    assert "there is no detached cell 'shared'" in first.run("%nbray attach shared").printed
    for notebook in two:
        assert notebook.run("len(big)").result == "1000000"


def test_it_is_dropped_by_one_while_the_other_looks(two: Two, tmp_path: Path) -> None:
    first, second = two
    steps = STEPS.format(str(tmp_path / "stop"))
    first.run(f"%%remote --detach short\n{steps}")
    live = first.start("%nbray attach short")
    first.wait(lambda: "step 2\n" in live.printed, "its output")
    pid = first.manager.provisioner.pid  # type: ignore[union-attr]
    stand_still(pid)
    try:
        (tmp_path / "stop").touch()
        second.run("%nbray attach short")
        second.run("%nbray results short --drop")
        second.run("%%remote --detach short\nprint('another one')")
    finally:
        os.kill(pid, signal.SIGCONT)
    first.wait(lambda: live.idle, "the prompt")
    assert "short (In [" in live.printed and "was dropped by somebody while" in live.printed
    assert "another one" not in live.printed
    assert "another one" in first.run("%nbray attach short").printed
