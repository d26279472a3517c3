"""Work at the size at which clusters fail: each says what it did, and checks that it was done.

``--scale`` makes all of it smaller, so that a quick run says whether it runs at all; the figures of
such a run are of another work and compare with nothing.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, MissingApi, expect, seconds_of

# --- many --------------------


def million_tasks(bench: Bench) -> None:
    """A million tasks queued before any may run, drained, and what the driver keeps of them."""
    engine, count = bench.engine, bench.size(1_000_000)
    bench.start(resources={"gate": 1})

    @engine.remote
    def number(i: int) -> int:
        return i

    @engine.remote(resources={"gate": 1}, num_cpus=0)
    def hold(begun: str, opened: str) -> None:
        Path(begun).touch()
        while not os.path.exists(opened):
            time.sleep(0.02)

    with tempfile.TemporaryDirectory() as folder:
        begun, gate = os.path.join(folder, "begun"), os.path.join(folder, "open")
        waits = number.options(resources={"gate": 1})
        engine.get(waits.remote(0))
        first = hold.remote(begun, gate)
        while not os.path.exists(begun):  # the lease of the task before it may still be kept
            time.sleep(0.02)
        before = _private_megabytes()
        refs: list[Any] = []
        submitted = seconds_of(lambda: refs.extend(waits.remote(i) for i in range(count)))
        queued = _private_megabytes()
        expect(engine.wait(refs[:1], timeout=0)[0], [])  # none has run
        Path(gate).touch()
        drained = seconds_of(lambda: expect(sum(engine.get(refs)), sum(range(count))))
        refs.clear()
        engine.get(first)
    engine.get(waits.remote(0))
    time.sleep(3)  # what is given back is given back when there is time
    bench.report("1,000,000 queued tasks, submitted per second", count / submitted)
    bench.report("1,000,000 queued tasks, drained per second", count / drained)
    bench.report("1,000,000 queued tasks, bytes of each", (queued - before) * 1e6 / count)
    kept = max(0.0, _private_megabytes() - before)
    bench.report("1,000,000 queued tasks, MB kept afterwards", kept)


def _private_megabytes() -> float:
    """What would come back if this process ended."""
    kilobytes = 0
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_"):
            kilobytes += int(line.split()[1])
    return kilobytes * 1024 / 1e6


def thousand_actors(bench: Bench) -> None:
    """All at once; each has a process."""
    engine, count = bench.engine, bench.size(1000)
    bench.start()

    @engine.remote(num_cpus=0)
    class Actor:
        def number(self, i: int) -> int:
            return i

    actors: list[Any] = []  # they live until the last has answered

    def create_and_call() -> None:
        actors.extend(Actor.remote() for _ in range(count))  # type: ignore[attr-defined]
        answers = [actor.number.remote(i) for i, actor in enumerate(actors)]
        expect(engine.get(answers), list(range(count)))

    bench.report("1,000 actors created and called", seconds_of(create_and_call))


def ten_thousand_actors(bench: Bench) -> None:
    """Named actors for which there is no room: what the GCS has to know, without processes."""
    engine, count = bench.engine, bench.size(10_000)
    bench.start(resources={"place": 1})

    class Actor:
        def ready(self) -> bool:
            return True

    cls = engine.remote(num_cpus=0, resources={"place": 1})(Actor)
    holder = cls.remote()
    expect(engine.get(holder.ready.remote()), True)
    actors: list[Any] = []

    def create() -> None:
        actors.extend(cls.options(name=f"actor {i}").remote() for i in range(count))
        engine.get_actor(f"actor {count - 1}")

    bench.report("10,000 actors registered", seconds_of(create))
    names = [f"actor {i}" for i in range(0, count, max(1, count // 1000))]

    def look_up() -> None:
        for name in names:
            engine.get_actor(name)

    bench.report("an actor of 10,000 found by its name", len(names) / seconds_of(look_up))


def thousand_groups(bench: Bench) -> None:
    """Placement groups that are all there at once."""
    create = bench.need("util.placement_group")
    remove = bench.need("util.remove_placement_group")
    if not callable(create):  # a module of that name without the function
        raise MissingApi(f"{bench.engine.__name__}.util.placement_group()")
    count = bench.size(1000)
    bench.start(resources={"custom": 10})
    groups: list[Any] = []

    def work() -> None:
        groups.extend(create(bundles=[{"custom": 0.001}, {"custom": 0.001}]) for _ in range(count))
        for group in groups:
            expect(bool(group.wait(timeout_seconds=300)), True)
        for group in groups:
            remove(group)

    bench.report("1,000 placement groups of two bundles", seconds_of(work))


def tree_reduction(bench: Bench) -> None:
    """10,000 tasks of 1 ms of work, summed up by tens: the part of the cores that did the work."""
    engine, count, busy_s = bench.engine, bench.size(10_000), 0.001
    bench.start()

    @engine.remote
    def leaf(i: int) -> int:
        _work(busy_s)
        return i

    @engine.remote
    def total(*values: int) -> int:
        _work(busy_s)
        return sum(values)

    engine.get([leaf.remote(i) for i in range(20)])
    tasks = 0

    def reduce_all() -> None:
        nonlocal tasks
        level = [leaf.remote(i) for i in range(count)]
        tasks = count
        while len(level) > 1:
            level = [total.remote(*level[i : i + 10]) for i in range(0, len(level), 10)]
            tasks += len(level)
        expect(engine.get(level[0]), sum(range(count)))

    seconds = seconds_of(reduce_all)
    bench.report(
        "tree of 10,000 tasks of 1 ms, part of the cores", tasks * busy_s / bench.cores / seconds
    )


def _work(seconds: float) -> None:
    """Use a core for so long, by its own clock: what others take meanwhile does not count."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


# --- large --------------------


def overfull_store(bench: Bench) -> None:
    """Ten times as much as the store has room for, put and read back, beside the disk's own."""
    import numpy as np

    engine = bench.engine
    part, store = 10_000_000, 200_000_000
    count = max(30, bench.size(10 * store // part))
    with tempfile.TemporaryDirectory(dir=_folder_of_sessions()) as folder:
        bench.start(object_store_memory=store)
        array = np.random.default_rng(0).integers(0, 255, part, dtype=np.uint8)
        refs: list[Any] = []

        def put_all() -> None:
            for i in range(count):
                array[0] = i % 251
                refs.append(engine.put(array))

        def read_all() -> None:
            for i, ref in enumerate(refs):
                found = engine.get(ref)
                expect((int(found[0]), len(found)), (i % 251, part))
                found.sum()

        # A virtual machine gets a page from its host when it is first touched, which takes longer
        # than the write: whoever came first would pay for all who come after.
        _write_plain(folder, array, count)
        plain = seconds_of(lambda: _write_plain(folder, array, count))
        written = seconds_of(put_all)
        read = seconds_of(read_all)
    gigabytes = count * part / 1e9
    bench.report("store filled ten times over, GB/s", gigabytes / written)
    bench.report("store filled ten times over, read back, GB/s", gigabytes / read)
    bench.report("plain file, GB/s", gigabytes / plain)
    bench.report("store filled ten times over as part of a plain file", plain / written)


def _folder_of_sessions() -> str | None:
    """Where either engine spills: beside its sessions."""
    return os.environ.get("NBRAY_TMPDIR") or os.environ.get("RAY_TMPDIR")


def _write_plain(folder: str, array: Any, count: int) -> None:
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(count):
            file.write(array.data)


def shuffle(bench: Bench) -> None:
    """2 GB in 64 parts, each of which goes to 64 others."""
    import numpy as np

    engine, parts = bench.engine, 64
    part_bytes = bench.size(2_000_000_000 // parts)
    bench.start(object_store_memory=3 << 30)

    @engine.remote(num_returns=parts)
    def split(number: int) -> list[Any]:
        values = np.full(part_bytes, number, np.uint8)
        return np.array_split(values, parts)

    @engine.remote
    def join(*pieces: Any) -> tuple[int, int]:
        whole = np.concatenate(pieces)
        return len(whole), int(whole.sum(dtype=np.int64))

    warm = [join.remote(np.ones(1, np.uint8)) for _ in range(4 * bench.cores)]
    expect(engine.get(warm), [(1, 1)] * len(warm))

    def work() -> None:
        made = [split.remote(number) for number in range(parts)]
        joined = engine.get([join.remote(*[row[i] for row in made]) for i in range(parts)])
        wanted = parts * part_bytes, part_bytes * sum(range(parts))
        expect((sum(n for n, _ in joined), sum(s for _, s in joined)), wanted)

    bench.report("shuffle of 2 GB in 64 parts, GB/s", parts * part_bytes / 1e9 / seconds_of(work))


def sort(bench: Bench) -> None:
    """2 GB of random numbers: made, cut at sampled bounds, and each range sorted by a task."""
    import numpy as np

    engine, blocks = bench.engine, 16
    rows = bench.size(2_000_000_000 // 8 // blocks)
    bench.start(object_store_memory=5 << 30)

    @engine.remote
    def make(seed: int) -> Any:
        return np.random.default_rng(seed).integers(0, 1 << 60, rows)

    @engine.remote
    def sample(block: Any) -> Any:
        return block[:: max(1, len(block) // 1000)]

    @engine.remote(num_returns=blocks)
    def cut(block: Any, bounds: Any) -> list[Any]:
        ranges = np.searchsorted(bounds, block)
        order = np.argsort(ranges, kind="stable")
        return np.split(block[order], np.cumsum(np.bincount(ranges, minlength=blocks))[:-1])

    @engine.remote
    def merge(*pieces: Any) -> tuple[Any, int, int, int]:
        whole = np.concatenate(pieces)
        whole.sort()
        if not len(whole):
            return whole, 0, 0, 0
        return whole, len(whole), int(whole[0]), int(whole[-1])

    engine.get([sample.remote(np.ones(1)) for _ in range(4 * bench.cores)])

    def work() -> None:
        made = [make.remote(seed) for seed in range(blocks)]
        sampled = np.sort(np.concatenate(engine.get([sample.remote(block) for block in made])))
        bounds = sampled[len(sampled) // blocks :: len(sampled) // blocks][: blocks - 1]
        pieces = [cut.remote(block, bounds) for block in made]
        merges = merge.options(num_returns=4)
        merged = [merges.remote(*[row[i] for row in pieces]) for i in range(blocks)]
        counts = engine.get([row[1] for row in merged])
        lows = engine.get([row[2] for row in merged])
        highs = engine.get([row[3] for row in merged])
        expect(sum(counts), blocks * rows)
        expect(all(high <= low for high, low in zip(highs, lows[1:], strict=False)), True)

    bench.report("sort of 2 GB, GB/s", blocks * rows * 8 / 1e9 / seconds_of(work))


def broadcast(bench: Bench) -> None:
    """One value of 400 MB that 200 tasks read."""
    import numpy as np

    engine, size, count = bench.engine, bench.size(400_000_000), 200
    bench.start(object_store_memory=1 << 30)

    @engine.remote
    def ends(array: Any) -> tuple[int, int]:
        return int(array[0]) + int(array[-1]), len(array)

    ref = engine.put(np.ones(size, np.uint8))
    engine.get(ends.remote(ref))
    seconds = seconds_of(
        lambda: expect(engine.get([ends.remote(ref) for _ in range(count)]), [(2, size)] * count)
    )
    bench.report("400 MB read by 200 tasks, tasks per second", count / seconds)


# --- libraries --------------------


def grid_search(bench: Bench) -> None:
    """scikit-learn's search through joblib."""
    register = bench.need("util.joblib.register_ray")
    bench.start()
    register()
    bench.report("grid search of 60 fits", grid_search_seconds("ray", bench.size(60)))


def grid_search_seconds(backend: str, fits: int) -> float:
    """How long a search of so many fits takes by that backend of joblib, once it is warm.

    Raises:
        MissingApi: scikit-learn is not installed beside the engine.
    """
    import numpy as np

    try:
        import joblib
        from sklearn.datasets import make_classification
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV
    except ImportError as error:
        raise MissingApi(str(error.name)) from error
    features, classes = make_classification(2000, 20, random_state=0)
    candidates = max(1, fits // 3)
    search = GridSearchCV(
        LogisticRegression(max_iter=200), {"C": list(np.logspace(-2, 2, candidates))}, cv=3,
        n_jobs=os.cpu_count(),
    )  # fmt: skip
    with joblib.parallel_backend(backend):
        search.fit(features, classes)
        seconds = seconds_of(lambda: search.fit(features, classes))
    expect(len(search.cv_results_["params"]), candidates)
    return seconds


WORKLOADS: dict[str, Callable[[Bench], None]] = {
    work.__name__: work
    for work in (
        million_tasks, thousand_actors, ten_thousand_actors, thousand_groups, tree_reduction,
        overfull_store, shuffle, sort, broadcast, grid_search,
    )
}  # fmt: skip
