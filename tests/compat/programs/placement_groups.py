"""Gang scheduling: all workers of a training start together or not at all."""

import nbray as ray
from nbray.util.placement_group import (
    get_current_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@ray.remote(num_cpus=1)
class Worker:
    def __init__(self, rank):
        self.rank = rank
        self.weight = 0.0

    def step(self, gradients):
        self.weight += sum(gradients) / len(gradients)
        return self.rank + self.weight

    def group(self):
        return get_current_placement_group().id.hex()


@ray.remote(num_cpus=1)
def evaluate():
    return get_current_placement_group() is not None


@ray.remote(num_cpus=1)
def parent():
    return ray.get(evaluate.remote())


ray.init(num_cpus=4)
group = placement_group([{"CPU": 1}, {"CPU": 1}, {"CPU": 2}], strategy="PACK", name="training")
ray.get(group.ready())
assert placement_group_table(group)["state"] == "CREATED"
assert ray.available_resources().get("CPU", 0) == 0  # the group has them all

workers = [
    Worker.options(
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=rank
        )
    ).remote(rank)
    for rank in range(2)
]
assert ray.get([worker.group.remote() for worker in workers]) == [group.id.hex()] * 2
gradients = [1.0, 2.0]
for _ in range(3):
    gradients = ray.get([worker.step.remote(gradients) for worker in workers])
print("weights after three steps:", gradients)

inside = PlacementGroupSchedulingStrategy(
    group, placement_group_bundle_index=2, placement_group_capture_child_tasks=True
)
assert ray.get(parent.options(scheduling_strategy=inside).remote())  # its child is in it as well

late = placement_group([{"CPU": 4}])
assert not late.wait(timeout_seconds=0.2)
remove_placement_group(group)
assert late.wait(timeout_seconds=30)
try:
    ray.get(workers[0].step.remote([0.0]), timeout=30)
except ray.exceptions.RayError as error:
    print("removed:", type(error).__name__)
remove_placement_group(late)
print("two workers trained in one group")
ray.shutdown()
