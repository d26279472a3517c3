"""The configuration: one typed class, each field overridden by ``NBRAY_<FIELD>``."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Config:
    """Every number that a user may want to change.

    Attributes:
        max_inline_bytes: values up to this size travel in messages; larger ones in the arena.
        max_frame_bytes: the longest frame that is accepted.
        handshake_timeout_s: a peer that has not authenticated by then is disconnected.
        health_check_period_s: how often a raylet reports to the GCS.
        health_check_timeout_s: a raylet silent for so long is dead.
        lease_idle_s: how long a submitter keeps an idle worker.
        start_timeout_s: a process of the cluster must be ready by then.
        store_full_wait_s: how long a `put` waits for room.
    """

    max_inline_bytes: int = 100 * 1024
    max_frame_bytes: int = 128 << 20
    handshake_timeout_s: float = 5.0
    health_check_period_s: float = 0.5
    health_check_timeout_s: float = 3.0
    lease_idle_s: float = 0.2
    start_timeout_s: float = 20.0
    store_full_wait_s: float = 10.0

    @classmethod
    def from_env(cls) -> Config:
        """The defaults, overridden by the environment.

        Raises:
            ValueError: a variable is not a number.
        """
        values: dict[str, int | float] = {}
        for field in fields(cls):
            text = os.environ.get(f"NBRAY_{field.name.upper()}")
            if text is not None:
                values[field.name] = float(text) if field.type == "float" else int(text)
        return cls(**values)  # type: ignore[arg-type]
