"""What a notebook wants to know of the tasks of a cell: bits of the number that the cell has.

The number travels with each task, and with what it submits, so every worker knows without asking.
"""

HOLD = 1 << 40
"""A task that fails waits with its frames until the notebook has looked at them."""
PROFILE = 1 << 41
"""Where the time of its tasks goes is told."""
PROFILE_MEMORY = 1 << 42
"""Where their memory goes, too, as exactly as the interpreter knows it."""


def plain(number: int) -> int:
    """The number of a cell without them: cells stand in its order."""
    return number & (HOLD - 1)


IDLE = "(waits for work)"
"""The stack of a main thread that runs nothing, where time at work is told."""
