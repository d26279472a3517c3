"""nbray beside Ray: the same work on both engines, in turns, in one run (``make bench``)."""

import sys
from pathlib import Path

# What is measured is what is installed: the checkout's own nbray, which `python -m benchmarks`
# puts first, is looked at last.
_CHECKOUT = str(Path(__file__).resolve().parent.parent)
sys.path[:] = [*(entry for entry in sys.path if entry not in ("", _CHECKOUT)), _CHECKOUT]
