"""MapReduce: words counted in shards, partitioned by letter, reduced in parallel."""

from collections import Counter

import nbray as ray

TEXT = ["the cat and the dog", "a dog and a bird", "the bird saw the cat"] * 10
REDUCERS = 3


@ray.remote(num_returns=REDUCERS)
def map_words(lines):
    parts = [Counter() for _ in range(REDUCERS)]
    for line in lines:
        for word in line.split():
            parts[ord(word[0]) % REDUCERS][word] += 1
    return tuple(parts)


@ray.remote
def reduce_words(*parts):
    return sum(parts, Counter())


ray.init(num_cpus=2)
mapped = [map_words.remote(TEXT[start::4]) for start in range(4)]
reduced = [reduce_words.remote(*[parts[i] for parts in mapped]) for i in range(REDUCERS)]
counts = sum(ray.get(reduced), Counter())
assert counts == Counter(" ".join(TEXT).split())
print("most common:", counts.most_common(1))
ray.shutdown()
