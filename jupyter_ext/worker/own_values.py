"""Values that were read in place, with memory that may be written.

A cell may change what it reads as if it ran in the kernel: ``a += 1``, ``a.sort()``, ``df.fillna(0,
inplace=True)``. So may the notebook change what it has read from a cell.
"""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any

from nbray.notebook import Memory

from .home import Packer, open_stream

if TYPE_CHECKING:
    from nbray.notebook import ObjectRef


_SMALL = (int, float, complex, str, bytes, bool, type(None))


def make_own(value: Any, memory: Memory, home: dict[str, Any]) -> Any:
    """``value`` with its read-only arrays writable: itself, if it has none.

    Args:
        value: what was read.
        memory: knows later which of it was written.
        home: the globals of functions at home, see `nbray.jupyter_ext.worker.home`.
    """
    if isinstance(value, _SMALL) or "numpy" not in sys.modules:
        return value
    refs: list[ObjectRef] = []
    packer = _Owner(home, refs, memory)
    try:
        stream = packer.pack(value)
    except Exception:  # a value's own code; what cannot be pickled is used as it came
        return value
    if not packer.has_own:
        return value
    return open_stream(stream, packer.buffers, refs, home)[0]


class _Owner(Packer):
    """Puts writable memory in the place of that which is read-only."""

    def __init__(self, home: dict[str, Any], refs: list[ObjectRef], memory: Memory) -> None:
        import numpy

        super().__init__(home, refs)
        self._memory = memory
        self._array = numpy.ndarray
        self.has_own = False

    def reducer_override(self, value: Any) -> Any:
        """How arrays are pickled; all else is as it is."""
        if type(value) is self._array and not value.flags.writeable:
            reduced: Any = value.__reduce_ex__(5)
            make, arguments, *rest = reduced
            if arguments and isinstance(arguments[0], pickle.PickleBuffer):
                own = self._memory.writable(arguments[0].raw())
                self.has_own = True
                return make, (pickle.PickleBuffer(own), *arguments[1:]), *rest
        return super().reducer_override(value)
