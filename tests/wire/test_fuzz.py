"""Every listener under random and mutated input; see `fuzz`, which can be run by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_listeners_survive_fuzzing(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "3")
    sent = run(seed=1, seconds=10, least=1000)
    print(sent)
    assert len(sent) == 17, "every listener, before and after the handshake"
    assert sent.total() > 1000
