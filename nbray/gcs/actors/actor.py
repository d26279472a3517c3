"""One actor, in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from nbray.gcs.actors.life import ActorLife
from nbray.wire.records import ActorSpec, JobConfig


@dataclass
class Actor:
    """One actor: what it is made of, its life, and who is at work for it.

    ``refused``: a node that was asked for it had no room.
    """

    spec: ActorSpec
    job: JobConfig
    life: ActorLife
    unplaced_since: float = 0.0
    refused: bool = False
    placer: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
