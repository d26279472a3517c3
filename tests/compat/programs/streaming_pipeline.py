"""Three stages, each a generator that reads the one before while it still produces."""

import nbray as ray


@ray.remote
def read(count):
    for number in range(count):
        yield {"id": number, "value": number}


@ray.remote
def transform(record):
    return {**record, "value": record["value"] ** 2}


@ray.remote
def batch(count, size):
    waiting = []
    for ref in read.remote(count):
        waiting.append(transform.remote(ref))
        if len(waiting) == size:
            yield ray.get(waiting)
            waiting = []
    if waiting:
        yield ray.get(waiting)


@ray.remote(num_returns="dynamic")
def split(count):
    yield from range(count)


ray.init(num_cpus=4)
sizes, total = [], 0
for ref in batch.remote(10, 4):
    records = ray.get(ref)
    sizes.append(len(records))
    total += sum(record["value"] for record in records)
assert (sizes, total) == ([4, 4, 2], sum(n * n for n in range(10)))
try:
    transform.remote(read.remote(1))
except TypeError:
    print("a stream is read by who made it")
else:
    raise AssertionError("a stream was sent")
print("batches", sizes, "sum", total)

generator = ray.get(split.remote(5))
assert [ray.get(ref) for ref in generator] == [0, 1, 2, 3, 4]
print("dynamic returns: 5")
ray.shutdown()
