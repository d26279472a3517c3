"""Retries of tasks, restarts of actors, and an actor that comes back from its checkpoint."""

import json
import os
import tempfile
import time
from pathlib import Path

import nbray as ray


@ray.remote(max_retries=2)
def crash_once(mark):
    if not os.path.exists(mark):
        Path(mark).touch()
        os._exit(1)
    return "done"


@ray.remote(max_retries=0)
def crash():
    os._exit(1)


@ray.remote(max_retries=5, retry_exceptions=[ConnectionError])
def flaky(mark):
    with open(mark, "a") as file:
        file.write("x")
    if len(Path(mark).read_text()) < 3:
        raise ConnectionError("not yet")
    return len(Path(mark).read_text())


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Counter:
    def __init__(self, checkpoint):
        self.checkpoint = Path(checkpoint)
        self.count = json.loads(self.checkpoint.read_text()) if self.checkpoint.exists() else 0

    def add(self):
        self.count += 1
        self.checkpoint.write_text(json.dumps(self.count))
        return self.count

    def pid(self):
        return os.getpid()


@ray.remote
class Mortal:
    def die(self):
        os._exit(1)

    def ping(self):
        return "pong"


ray.init(num_cpus=2)
with tempfile.TemporaryDirectory() as folder:
    assert ray.get(crash_once.remote(f"{folder}/crash")) == "done"
    assert ray.get(flaky.remote(f"{folder}/flaky")) == 3
    try:
        ray.get(crash.remote())
    except ray.exceptions.WorkerCrashedError:
        print("a crash without retries is told")
    else:
        raise AssertionError("no error")

    counter = Counter.remote(f"{folder}/count")
    assert [ray.get(counter.add.remote()) for _ in range(3)] == [1, 2, 3]
    before = ray.get(counter.pid.remote())
    ray.kill(counter, no_restart=False)
    deadline = time.monotonic() + 60
    while ray.get(counter.pid.remote()) == before:  # kill does not wait for the end
        assert time.monotonic() < deadline, "not restarted"
    assert ray.get(counter.add.remote()) == 4

    mortal = Mortal.remote()
    assert ray.get(mortal.ping.remote()) == "pong"
    for call in (mortal.die, mortal.ping):
        try:
            ray.get(call.remote())
        except ray.exceptions.RayActorError as error:
            assert isinstance(error, ray.exceptions.ActorDiedError)
        else:
            raise AssertionError("no error")
print("the count goes on after a restart")
ray.shutdown()
