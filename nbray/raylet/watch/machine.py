"""What the machine of a node does: processor, memory, disk and network, for whoever watches."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

_OLD_S = 1.0


class Machine:
    """Reads the machine's figures, those of disks and networks once a second at most.

    Args:
        folder: the disk of which the room is told.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = 0.0
        self._slow: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def stats(self) -> dict[str, float]:
        """Percent, bytes in use and in all, and bytes since the machine began.

        What was seen last while no file can be opened: more depends on a report than these.
        """
        try:
            self._last = self._seen()
        except OSError as error:
            logger.debug("The machine's figures are not read: %s", error)
        return self._last

    def _seen(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        now = time.monotonic()
        if now - self._read >= _OLD_S:
            self._read, self._slow = now, self._look()
        return {
            "cpu_percent": psutil.cpu_percent(),
            "memory_used": float(memory.used),
            "memory_total": float(memory.total),
            **self._slow,
        }

    def _look(self) -> dict[str, float]:
        found: dict[str, float] = {}
        cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != "lo"]
        disks = psutil.disk_io_counters()
        if cards:  # a container may see none
            found |= {"net_received": float(sum(card.bytes_recv for card in cards)),
                      "net_sent": float(sum(card.bytes_sent for card in cards))}  # fmt: skip
        if disks is not None:
            found |= {"disk_read": float(disks.read_bytes),
                      "disk_written": float(disks.write_bytes)}  # fmt: skip
        try:
            room = psutil.disk_usage(str(self._folder))
        except OSError:  # the folder was removed
            return found
        return found | {"disk_used": float(room.used), "disk_total": float(room.total)}
