"""The keeper's process: ``python -m nbray.jupyter_ext.kept`` and what `door` gives it."""

from __future__ import annotations

import os
import sys
import threading

from nbray.notebook import use

from .door import SPACE
from .keeper import Keeper


def main() -> None:
    """Keep cells until there is none, or until the door has gone."""
    engine_name, address, namespace, door, actor_id, _log = sys.argv[1:]

    def leave_with_the_door() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=leave_with_the_door, daemon=True).start()
    api = use(engine_name).api
    api.init(address, namespace=namespace)
    Keeper(api.get_actor(door, namespace=SPACE), door, actor_id).serve()
    api.shutdown()


main()
