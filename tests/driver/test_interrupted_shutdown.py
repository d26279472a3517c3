"""The end of a cluster that is interrupted, as by a second Ctrl-C, is one all the same."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from support.processes import have_ended
from support.stopping import stand_still

import nbray
from nbray.driver.joining import find_session
from nbray.testing import wait_until


@pytest.mark.parametrize("which", ["the GCS", "the raylet"])
def test_what_is_behind_the_process_that_is_waited_for_is_ended_too(
    cluster: Path, which: str
) -> None:
    session, info = find_session("auto")
    gcs, raylet = info["pids"][:2]
    still = gcs if which == "the GCS" else raylet
    stand_still(still)

    def interrupt() -> None:
        wait_until(lambda: not nbray.is_initialized(), "the end to begin")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        nbray.shutdown()
    thread.join()
    nbray.shutdown()
    with suppress(ProcessLookupError):
        os.kill(still, signal.SIGCONT)
    wait_until(lambda: have_ended([gcs, raylet]), "all to end")
    assert not session.path.exists()
