"""One large array, put once, read by tasks and kept by actors; more values than the store holds."""

import numpy as np

import nbray as ray


@ray.remote
def score(model, row):
    return float(model[row].sum())


@ray.remote
class Cache:
    """Keeps refs, and values of them that it has read."""

    def __init__(self):
        self.refs = {}

    def keep(self, name, boxed):
        self.refs[name] = boxed[0]

    def read(self, name):
        value = ray.get(self.refs[name])
        assert not value.flags.writeable
        return value.shape, float(value[-1].sum())

    def hand_out(self, name):
        return self.refs[name]


@ray.remote
def add_rows(model, count):
    return np.vstack([model, np.ones((count, model.shape[1]))])


ray.init(num_cpus=2, object_store_memory=100 * 1024 * 1024)
model = np.arange(2_000_000, dtype=np.float64).reshape(2000, 1000)
shared = ray.put(model)
scores = ray.get([score.remote(shared, row) for row in range(0, 2000, 100)])
assert scores == [float(model[row].sum()) for row in range(0, 2000, 100)]

cache = Cache.remote()
ray.get(cache.keep.remote("model", [shared]))
del shared  # the cache holds it now
assert ray.get(cache.read.remote("model")) == ((2000, 1000), float(model[-1].sum()))
again = ray.get(cache.hand_out.remote("model"))
assert (ray.get(again) == model).all()

# Together more than the store holds: the older ones go to disk and come back.
versions = [again]
for count in range(1, 10):
    versions.append(add_rows.remote(versions[-1], count))
shapes = [ray.get(version).shape[0] for version in versions]
assert shapes == [2000 + sum(range(1, count + 1)) for count in range(10)]
ready, rest = ray.wait(versions, num_returns=len(versions), timeout=30)
assert len(ready) == 10 and not rest
print("ten versions, the last of", shapes[-1], "rows")
ray.shutdown()
