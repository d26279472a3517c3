"""The keeper's process: ``python -m nbray.jupyter_ext.kept`` and what `door` gives it.

With one word more, why the keeper has ended, it stores what became of the cells.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import time

from nbray.exceptions import LocalRayletDiedError
from nbray.notebook import use

from . import space
from .door import SPACE, KeeperEndedError
from .keeper import Keeper


def main() -> None:
    """Keep cells until there is none, or until the door has gone."""
    engine_name, address, namespace, door, actor_id, _log, *why = sys.argv[1:]

    def leave_with_the_door() -> None:
        while os.read(0, 1):  # Python cannot end while a thread reads by `sys.stdin`
            pass
        os._exit(1)

    threading.Thread(target=leave_with_the_door, daemon=True).start()
    api = use(engine_name).api
    api.init(address, namespace=namespace)
    if why:
        _give_up((door, actor_id), why[0])
    else:
        try:
            Keeper(api.get_actor(door, namespace=SPACE), door, actor_id).serve()
        except LocalRayletDiedError:
            logging.getLogger(__name__).exception("The cluster is lost.")
            sys.exit("it lost the raylet of its node")
    api.shutdown()


def _give_up(keeper: tuple[str, str], why: str) -> None:
    """The cells that a keeper ran have failed with it; what they have shown stays."""
    for row in space.rows():
        if tuple(row.keeper) == keeper and not row.is_over:
            error = KeeperEndedError(f"What ran {row.name} has ended before it: {why}.")
            row.state, row.ended = "failed", time.time()
            space.save(row, {"error": pickle.dumps(error)})


main()
