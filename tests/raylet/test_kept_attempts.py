"""What a raylet remembers of actors that it could not create."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from nbray.raylet.workers import actors
from nbray.raylet.workers.actors import ActorManager
from nbray.runtime_env.setup import EnvError
from nbray.wire.causes import CauseKind
from nbray.wire.gcs_messages import StartActor
from nbray.wire.records import ActorOptions, ActorSpec, Address, JobConfig

DRIVER = Address(b"d" * 28, b"n" * 28, "", "127.0.0.1", 1)


class Envs:
    """Environments, none of which can be set up."""

    def __init__(self) -> None:
        self.asked = 0

    async def prepare(self, _text: str) -> Any:
        self.asked += 1
        raise EnvError("there is no such package")


def attempt_at(number: int) -> StartActor:
    options = ActorOptions({}, runtime_env="{}")
    spec = ActorSpec(b"%016d" % number, b"job0", "Actor", b"", b"", (), (), {}, options, DRIVER)
    return StartActor(spec, JobConfig(b"job0", "", DRIVER, [], ""), 0, 1.0, 0.0)


def test_of_actors_whose_environment_failed_the_newest_are_kept() -> None:
    async def scene() -> None:
        envs = Envs()
        manager = ActorManager(
            cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, envs),
            lambda _: None, lambda: "",
        )  # fmt: skip
        for number in range(actors._ENDED_KEPT + 100):
            started = await manager.start(attempt_at(number))
            assert started.cause is not None and started.cause.kind is CauseKind.RUNTIME_ENV
        assert len(manager._attempts) == actors._ENDED_KEPT
        asked = envs.asked
        again = await manager.start(attempt_at(number))  # the same answer, and no second try
        assert again.cause == started.cause and envs.asked == asked

    asyncio.run(scene())
