"""What user code finds around it in this process: devices, threads, its job, its environment."""

from __future__ import annotations

import os
from collections.abc import Collection

from nbray.common.accelerators import VisibleDevices
from nbray.common.thread_count import ThreadCount, threads_for
from nbray.core_worker.identity import Identity
from nbray.core_worker.runtime_envs import RuntimeEnvs
from nbray.wire import messages as m


class Surroundings:
    """Made fit for a lease, and once for all for an actor.

    Attributes:
        devices: those that are visible now.
        threads: how many the libraries of this process use; known once it is a worker (`begin`).
    """

    threads: ThreadCount

    def __init__(self, me: Identity, devices: VisibleDevices, envs: RuntimeEnvs) -> None:
        self._me = me
        self.devices = devices
        self._envs = envs

    def begin(self, set_by_user: Collection[str]) -> None:
        """This process is a worker, whose environment sets these variables."""
        self.devices.set_by_user = set_by_user
        self.threads = ThreadCount(os.environ, set_by_user)

    def for_lease(self, devices: dict[str, list[str]] | None, threads: int) -> None:
        """What comes is of that lease; of the one before no task is left."""
        if devices or self.devices.ids:
            self.devices.use(devices or {}, os.environ)
        if threads != self.threads.count:
            self.threads.use(threads)

    def before_the_first(self) -> None:
        """Run the hook of the environment, before anything of the user's."""
        self._envs.run_setup_hook()

    def for_actor(self, message: m.BecomeActor) -> None:
        """This process is that actor from now on."""
        self._me.set_job(message.job)
        self.devices.use(message.devices, os.environ)
        threads = threads_for(message.spec.options.resources)
        if threads != self.threads.count:
            self.threads.use(threads)
        self._envs.enter_job(message.job)
        self._me.become_actor(message.spec)
