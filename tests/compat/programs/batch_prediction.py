"""One model in the store, a pool of actors that predict shards with it."""

import numpy as np

import nbray as ray
from nbray.util import ActorPool


@ray.remote
class Predictor:
    def __init__(self, model):
        self.model = model

    def predict(self, shard):
        return (shard @ self.model > 0).astype(int)


ray.init(num_cpus=2)
generator = np.random.default_rng(0)
model = generator.normal(size=8)
shards = [generator.normal(size=(100, 8)) for _ in range(6)]
model_ref = ray.put(model)
pool = ActorPool([Predictor.remote(model_ref) for _ in range(2)])
in_order = list(pool.map(lambda actor, shard: actor.predict.remote(shard), shards))
assert all(np.array_equal(p, s @ model > 0) for p, s in zip(in_order, shards, strict=True))
unordered = pool.map_unordered(lambda actor, shard: actor.predict.remote(shard), shards)
assert sum(p.sum() for p in unordered) == sum(p.sum() for p in in_order)
pool.submit(lambda actor, shard: actor.predict.remote(shard), shards[0])
assert pool.has_next() and np.array_equal(pool.get_next(), in_order[0])
assert not pool.has_next()
print("predicted", sum(map(len, in_order)), "rows")
ray.shutdown()
