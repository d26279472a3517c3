"""A supervisor makes workers, hands out work, and tells of one that fails."""

import nbray as ray


@ray.remote(num_cpus=0)
class Worker:
    def work(self, item):
        if item < 0:
            raise ValueError(f"cannot work on {item}")
        return item * 10


@ray.remote(num_cpus=0)
class Supervisor:
    def __init__(self, count):
        self.workers = [Worker.remote() for _ in range(count)]

    def work(self, items):
        refs = [self.workers[i % len(self.workers)].work.remote(v) for i, v in enumerate(items)]
        return sum(ray.get(refs))

    def get_workers(self):
        return self.workers


ray.init(num_cpus=2)
supervisors = [Supervisor.remote(2) for _ in range(2)]
sums = ray.get([supervisor.work.remote([1, 2, 3]) for supervisor in supervisors])
assert sums == [60, 60]

try:
    ray.get(supervisors[0].work.remote([1, -1]))
except ValueError as error:
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert "cannot work on -1" in str(error)
    print("the failure of a leaf reaches the root")
else:
    raise AssertionError("no error")

leaf = ray.get(supervisors[1].get_workers.remote())[0]
assert ray.get(leaf.work.remote(7)) == 70
print("sums", sums, "and a leaf called directly")
ray.shutdown()
