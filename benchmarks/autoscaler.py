"""How long the autoscaler takes: a plan, and from demand to a node (``--node``).

``python -m benchmarks.autoscaler [--node]``
"""

from __future__ import annotations

import random
import sys
import time

from nbray.autoscaler.planner import Ask, Here, Rules, TypeRules, Wanted, plan

CPU = 10_000


def huge(
    rng: random.Random, nodes: int = 1000, shapes: int = 10_000, most_free: int = 3
) -> tuple[Rules, list[Here], Wanted]:
    """Nodes of six types with little free, and shapes of which hardly two are alike."""
    sizes = [(4, 0), (8, 0), (16, 0), (64, 0), (8, 1), (32, 8)]
    kinds = {}
    for n, (cpus, gpus) in enumerate(sizes):
        has = {"CPU": cpus * CPU, "memory": cpus * (4 << 30) * CPU}
        if gpus:
            has["GPU"] = gpus * CPU
        kinds[f"t{n}"] = TypeRules(f"t{n}", has, {"zone": "ab"[n % 2]}, 0, nodes, 60.0)
    here = []
    for n in range(nodes):
        kind = kinds[f"t{n % len(sizes)}"]
        free = {"CPU": rng.randrange(most_free) * CPU, "memory": rng.randrange(1 << 30) * CPU}
        here.append(Here(f"n{n}", kind.name, kind.resources, free, kind.labels, kept_by=("x",)))
    asks = []
    for n in range(shapes):
        shape = {"CPU": rng.randrange(1, 9) * CPU, "memory": rng.randrange(1 << 34) * CPU}
        if n % 10 == 0:
            shape["GPU"] = CPU
        asks.append(Ask(shape, rng.randrange(1, 4)))
    return Rules(kinds, 2 * nodes), here, Wanted(asks)


def _plans() -> None:
    for name, most_free in (("full nodes", 1), ("nearly full nodes", 3), ("half free nodes", 33)):
        case = huge(random.Random(1), most_free=most_free)
        taken = []
        for _ in range(5):
            began = time.process_time()
            made = plan(*case, now=0.0)
            taken.append(time.process_time() - began)
        launched = sum(launch.count for launch in made.launch)
        print(
            f"1,000 {name}, 10,000 shapes: {1000 * min(taken):.0f} ms of CPU time "
            f"(best of 5, worst {1000 * max(taken):.0f}); {launched} nodes launched"
        )


def _node() -> None:
    import nbray
    from nbray.cluster_utils import AutoscalingCluster

    types = {"small": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 1}}
    cluster = AutoscalingCluster({"CPU": 0}, types, idle_timeout_minutes=0.02)
    cluster.start()
    try:
        nbray.init(cluster.address)
        time.sleep(3)  # until the autoscaler looks
        for _ in range(3):
            began = time.monotonic()
            nbray.get(nbray.remote(lambda: 1).remote())
            print(f"from demand to a running node and the result: {time.monotonic() - began:.1f} s")
            while nbray.cluster_resources().get("CPU"):
                time.sleep(0.2)
    finally:
        nbray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    _plans()
    if "--node" in sys.argv:
        _node()
