"""Random search: results as they come, the slow trials cancelled when a good one is found."""

import time

import nbray as ray


@ray.remote
def evaluate(rate):
    deadline = time.monotonic() + (300 if rate > 1 else 0)
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return {"rate": rate, "loss": (rate - 0.3) ** 2}


ray.init(num_cpus=4)
running = {evaluate.remote(rate): rate for rate in (0.1, 0.3, 0.9, 2.0, 3.0, 4.0)}
best, results = None, []
while running:
    ready, _ = ray.wait(list(running), num_returns=1)
    running.pop(ready[0])
    results.append(ray.get(ready[0]))
    best = min(results, key=lambda result: result["loss"])
    if len(results) == 3:
        for ref in running:
            ray.cancel(ref)
        break
cancelled = 0
for ref in running:
    try:
        ray.get(ref, timeout=60)
    except ray.exceptions.TaskCancelledError:
        cancelled += 1
assert best["rate"] == 0.3 and cancelled == 3
print("best rate", best["rate"], "cancelled", cancelled)
try:
    slow = evaluate.remote(5.0)
    ray.get(slow, timeout=0.1)
except ray.exceptions.GetTimeoutError as error:
    assert isinstance(error, TimeoutError)
    ray.cancel(slow, force=True)
    print("a get that waits too long ends")
ray.shutdown()
