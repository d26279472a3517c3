"""Pi by sampling, with an actor that the samplers tell how far they are."""

import random

import nbray as ray

TASKS, SAMPLES = 4, 20_000


@ray.remote
class ProgressActor:
    def __init__(self, total):
        self.total = total
        self.done_by_task = {}

    def report_progress(self, task_id, done):
        self.done_by_task[task_id] = done

    def get_progress(self):
        return sum(self.done_by_task.values()) / self.total


@ray.remote
def sampling_task(samples, task_id, progress):
    inside = 0
    generator = random.Random(task_id)
    for done in range(1, samples + 1):
        inside += generator.random() ** 2 + generator.random() ** 2 <= 1
        if done % (samples // 4) == 0:
            ray.get(progress.report_progress.remote(task_id, done))
    return inside


ray.init(num_cpus=2)
progress = ProgressActor.remote(TASKS * SAMPLES)
results = [sampling_task.remote(SAMPLES, number, progress) for number in range(TASKS)]
pi = 4 * sum(ray.get(results)) / (TASKS * SAMPLES)
assert abs(pi - 3.1416) < 0.05, pi
assert ray.get(progress.get_progress.remote()) == 1.0
print("pi is about", round(pi, 1))
ray.shutdown()
