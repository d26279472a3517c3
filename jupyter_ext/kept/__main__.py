"""The keeper's process: ``python -m nbray.jupyter_ext.kept`` and what `door` gives it.

With one word more, why the keeper has ended, it stores what became of the cells.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time

from nbray.notebook import use

from . import space
from .door import SPACE, KeeperEndedError
from .keeper import Keeper


def main() -> None:
    """Keep cells until there is none, or until the door has gone."""
    engine_name, address, namespace, door, actor_id, _log, *why = sys.argv[1:]

    def leave_with_the_door() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=leave_with_the_door, daemon=True).start()
    api = use(engine_name).api
    api.init(address, namespace=namespace)
    if why:
        _give_up((door, actor_id), why[0])
    else:
        Keeper(api.get_actor(door, namespace=SPACE), door, actor_id).serve()
    api.shutdown()


def _give_up(keeper: tuple[str, str], why: str) -> None:
    """The cells that a keeper ran have failed with it; what they have shown stays."""
    for row in space.rows():
        if tuple(row.keeper) == keeper and not row.is_over:
            error = KeeperEndedError(f"What ran {row.name} has ended before it: {why}.")
            row.state, row.ended = "failed", time.time()
            space.save(row, {"error": pickle.dumps(error)})


main()
