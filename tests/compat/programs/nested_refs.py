"""A ref as an argument is its value; a ref inside an argument stays a ref."""

import numpy as np

import nbray as ray


@ray.remote
def top_level(value):
    assert not isinstance(value, ray.ObjectRef)
    return float(np.sum(value))


@ray.remote
def nested(refs):
    assert all(isinstance(ref, ray.ObjectRef) for ref in refs)
    return sum(float(np.sum(value)) for value in ray.get(refs))


@ray.remote
def make_inner():
    return [ray.put(np.ones(100_000)), top_level.remote(np.ones(3))]


@ray.remote
class Holder:
    def hold(self, refs):
        self.refs = refs

    def read(self):
        return float(ray.get(self.refs[0]).sum())


ray.init(num_cpus=2)
large = ray.put(np.ones(200_000))
assert ray.get(top_level.remote(large)) == 200_000
assert ray.get(nested.remote([large, large])) == 400_000
inner = ray.get(make_inner.remote())
assert ray.get(inner[0]).sum() == 100_000 and ray.get(inner[1]) == 3

holder = Holder.remote()
ray.get(holder.hold.remote([large]))
del large
assert ray.get(holder.read.remote()) == 200_000
array = ray.get(inner[0])
try:
    array[0] = 5
except ValueError:
    print("values are read-only, refs are first-class")
else:
    raise AssertionError("a shared value was written")
ray.shutdown()
