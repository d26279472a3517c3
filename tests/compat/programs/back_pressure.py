"""No more than a few tasks pending at a time; two actors whose work overlaps."""

import nbray as ray

MOST = 4


@ray.remote
class Work:
    def __init__(self, items):
        self.items = list(range(items))

    def get_work(self):
        return self.items.pop(0) if self.items else None


@ray.remote
class Pipelined:
    """Asks for its next item before it works on the one that it has."""

    def __init__(self, queue):
        self.queue = queue
        self.upcoming = queue.get_work.remote()

    def run(self):
        done = []
        while (item := ray.get(self.upcoming)) is not None:
            self.upcoming = self.queue.get_work.remote()
            done.append(item)
        return done


@ray.remote
def process(number):
    return number


ray.init(num_cpus=4)
pending, total, most = [], 0, 0
for number in range(30):
    if len(pending) >= MOST:
        ready, pending = ray.wait(pending, num_returns=1)
        total += sum(ray.get(ready))
    pending.append(process.remote(number))
    most = max(most, len(pending))
total += sum(ray.get(pending))
assert total == sum(range(30)) and most == MOST
print("never more than", most, "pending, sum", total)

queue = Work.remote(10)
workers = [Pipelined.remote(queue) for _ in range(2)]
done = ray.get([worker.run.remote() for worker in workers])
assert sorted(done[0] + done[1]) == list(range(10))
print("two workers shared 10 items")
ray.shutdown()
