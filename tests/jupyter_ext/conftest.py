"""What tests of the notebook share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.jupyterlab import Lab


@pytest.fixture
def lab(session_root: Path, tmp_path: Path) -> Iterator[Lab]:
    from support.jupyterlab import running_lab  # skips where there is no browser

    with running_lab(session_root, tmp_path) as found:
        yield found
