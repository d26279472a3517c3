"""A cell that keeps its output: ``%%capture``, `contextlib.redirect_stdout` and their kind.

They put something else in the place of the kernel's streams and display publisher. What the tasks
of that cell print and display meanwhile goes there, line by line, as what the cell itself prints
does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from nbray.notebook import OutputDisplay, OutputLines, engine


def is_redirected() -> bool:
    """Whether the streams of this kernel are not those that lead to its cells now."""
    from ipykernel.iostream import OutStream

    return not (isinstance(sys.stdout, OutStream) and isinstance(sys.stderr, OutStream))


def redirect(message: OutputLines | OutputDisplay, shell: Any, marked: bool) -> bool:
    """Give a message to what stands in the place of the cell; False if that takes none of it.

    Args:
        message: what a task of the running cell printed or displayed.
        shell: the kernel's IPython.
        marked: name the task in front of each line.
    """
    from ipykernel.iostream import OutStream
    from IPython.core.displaypub import CapturingDisplayPublisher

    if isinstance(message, OutputLines):
        if isinstance(sys.stderr if message.stream == "stderr" else sys.stdout, OutStream):
            return False
        engine().output.print_plainly(message, marked)
        return True
    publisher = getattr(shell, "display_pub", None)
    if not isinstance(publisher, CapturingDisplayPublisher):
        return False
    content = json.loads(message.content)
    if message.kind == "clear_output":
        publisher.clear_output(content.get("wait", False))  # type: ignore[no-untyped-call]
    else:
        publisher.publish(  # type: ignore[no-untyped-call]
            content.get("data", {}), content.get("metadata"),
            transient=content.get("transient"), update=message.kind == "update_display_data",
        )  # fmt: skip
    return True
