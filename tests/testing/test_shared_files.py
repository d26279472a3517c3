"""The fixtures of the suite tell a file that a test left from those of programs beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.shared_files import SHARED, no_shared_file_left

HOLDS = "import sys; f = open(sys.argv[1], 'w'); print(flush=True); sys.stdin.read()"


def test_a_file_that_another_program_has_is_not_left_by_the_test() -> None:
    path = SHARED / "nbray-test-of-shared-files"
    words = [sys.executable, "-c", HOLDS, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as other:
        assert other.stdin is not None and other.stdout is not None
        try:
            with no_shared_file_left(20.0):
                other.stdout.readline()
                assert path.exists()
            other.stdin.close()
            other.wait()
            path.unlink()
            with (
                pytest.raises(AssertionError, match="the end of all files"),
                no_shared_file_left(0),
            ):
                path.touch()
        finally:
            path.unlink(missing_ok=True)
