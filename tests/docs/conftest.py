"""The documents' own tools, which are not installed: the checkout has them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "docs" / "tools"))
