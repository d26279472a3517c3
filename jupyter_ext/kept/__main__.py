"""``python -m nbray.jupyter_ext.kept ADDRESS NAMESPACE DOOR ACTOR_ID``: the keeper's process."""

from __future__ import annotations

import os
import sys
import threading

import nbray

from .door import SPACE
from .keeper import Keeper


def main() -> None:
    """Keep cells until there is none, or until the door has gone."""
    address, namespace, door, actor_id = sys.argv[1:]

    def leave_with_the_door() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=leave_with_the_door, daemon=True).start()
    nbray.init(address, namespace=namespace)
    Keeper(nbray.get_actor(door, namespace=SPACE), door, actor_id).serve()
    nbray.shutdown()


main()
