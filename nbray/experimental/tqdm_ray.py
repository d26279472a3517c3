"""tqdm for tasks and actors, at Ray's path.

Every tqdm bar works in nbray's tasks: what it draws is added up by its name where the driver shows
it. This one takes the arguments that Ray's takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

try:
    from tqdm import tqdm as _tqdm
except ImportError:  # it is not installed, or a program of that name is in its place
    from nbray.experimental.plain_bar import PlainBar as _tqdm


class tqdm(_tqdm):  # type: ignore[misc]
    """A bar in a task or an actor's method.

    Args:
        iterable: what is gone through, if the bar moves by itself.
        desc: the bar's name; bars of one name are shown as one.
        total: how many steps there are, if ``iterable`` cannot tell.
        unit: what one step is called.
        position: which line it is drawn on, where several are drawn by one process.
        flush_interval_s: at most how often it is drawn, in seconds.

    Examples:
        >>> from nbray.experimental.tqdm_ray import tqdm
        >>> @nbray.remote
        ... def work():
        ...     return sum(tqdm(range(10), desc="work"))
        >>> nbray.get(work.remote())
        45
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str = "it",
        *,
        position: int | None = None,
        flush_interval_s: float = 0.5,
    ) -> None:
        super().__init__(
            iterable, desc, total, unit=unit, position=position, mininterval=flush_interval_s
        )


def safe_print(*values: Any, **options: Any) -> None:
    """``print`` that does not break the bars of this process.

    Args:
        values: as for `print`.
        options: ``sep`` and ``file`` of `print`.

    Examples:
        >>> from nbray.experimental.tqdm_ray import safe_print
        >>> safe_print("between", "bars")
        between bars
    """
    tqdm.write(options.get("sep", " ").join(map(str, values)), options.get("file") or sys.stdout)
