"""The work that chaos disturbs: each step submits some, and knows what has to come back."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from chaos_faults import Fault

import nbray
from nbray import exceptions as ex
from nbray.util.placement_group import placement_group, remove_placement_group
from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

MB = 1 << 20
DEADLINE_S = float(os.environ.get("NBRAY_CHAOS_DEADLINE_S", 120))


@nbray.remote(max_retries=-1)
def digest(shared: np.ndarray, number: int) -> str:
    time.sleep(0.005 * (number % 4))
    return hashlib.sha256(shared.tobytes() + str(number).encode()).hexdigest()


@nbray.remote(max_retries=-1, num_cpus=0.5)
def tree(depth: int, number: int) -> int:
    if depth == 0:
        return number
    return sum(nbray.get([tree.remote(depth - 1, number * 2 + side) for side in (0, 1)]))


@nbray.remote(max_retries=-1)
def grow(array: np.ndarray, by: float) -> np.ndarray:
    return array + by


@nbray.remote(max_retries=-1)
def pass_on(refs: list[nbray.ObjectRef]) -> list[nbray.ObjectRef]:
    return [digest.remote(refs[0], 17), *refs]


@nbray.remote(max_retries=-1)
def block(number: int, count: int) -> np.ndarray:
    return np.full(count, number)


@nbray.remote(max_retries=0)
def once(number: int) -> int:
    time.sleep(0.02)
    return number * 2


@nbray.remote(max_retries=-1)
def look(refs: list[nbray.ObjectRef], expected: list[int]) -> bool:
    return all((nbray.get(ref) == number).all() for ref, number in zip(refs, expected, strict=True))


@nbray.remote(max_retries=-1)
def total(rows: dict[str, np.ndarray], refs: list[nbray.ObjectRef], *values: bytes) -> int:
    found = sum(sum(value) for value in [*nbray.get(refs), *values])
    return found + int(rows["rows"].sum(dtype=np.int64))


@nbray.remote(max_retries=-1)
def stream(count: int) -> Iterator[np.ndarray]:
    for i in range(count):
        yield np.full(30_000, i)


@nbray.remote(num_cpus=0)
class Account:
    """Adds up, and says by which process: a restarted one begins anew."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int) -> tuple[int, int]:
        self.total += amount
        return os.getpid(), self.total


def tree_sum(depth: int, number: int) -> int:
    if depth == 0:
        return number
    return tree_sum(depth - 1, number * 2) + tree_sum(depth - 1, number * 2 + 1)


@dataclass
class Workload:
    """Steps that submit work and check what comes back."""

    rng: random.Random
    say: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    kept: list[tuple[nbray.ObjectRef, float]] = field(default_factory=list)
    blocks: list[tuple[nbray.ObjectRef, int]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared_array = np.arange(150_000)
        self.shared = nbray.put(self.shared_array)
        # What `put` made cannot be made again: it has to be held by who wants its results again.
        self.zeros = nbray.put(np.zeros(50_000))
        self.lasting = Account.options(max_restarts=-1, max_task_retries=-1).remote()
        self.lasting_totals: dict[int, int] = {}
        self.mortal = Account.remote()
        self.mortal_total = 0

    def step(self) -> None:
        """One piece of work, chosen by the seed."""
        chosen = self.rng.choice(
            [self.digests, self.trees, self.chain, self.passing, self.streams, self.accounts,
             self.keep, self.grow_store, self.once, self.groups, self.large]
        )  # fmt: skip
        self.say(f"work: {chosen.__name__}")
        began = time.monotonic()
        chosen()
        for fault in self.faults:
            if fault.recovery is None and fault.over_at <= began:
                fault.recovery = time.monotonic() - fault.over_at
        self.done[chosen.__name__] += 1

    def grow_store(self) -> None:
        """More than the stores hold, which goes to disk; now and then half of it is dropped."""
        number = self.rng.randrange(1000)
        size = self.rng.randrange(100_000, 800_000)
        self.blocks.append((block.remote(number, size), number))
        some = self.rng.sample(self.blocks, min(3, len(self.blocks)))
        refs, numbers = [ref for ref, _ in some], [number for _, number in some]
        assert nbray.get(look.remote(refs, numbers), timeout=DEADLINE_S)
        if len(self.blocks) > 60:
            del self.blocks[:30]

    def large(self) -> None:
        """What is large only when it is pickled, and much that is large together."""
        number = self.rng.randrange(256)
        rows = {"rows": np.full(self.rng.randrange(1, 6) * MB, number, dtype=np.uint8)}
        size = len(rows["rows"])
        small = [bytes([number]) * 90_000 for _ in range(self.rng.randrange(1, 150))]
        refs = [nbray.put(value) for value in small]
        expected = size * number + len(small) * 90_000 * number
        assert nbray.get(total.remote(rows, refs, *small), timeout=DEADLINE_S) == expected + (
            len(small) * 90_000 * number
        )

    def once(self) -> None:
        """What may not be run again is right, or says that its process died."""
        numbers = [self.rng.randrange(1000) for _ in range(4)]
        for number, ref in [(number, once.remote(number)) for number in numbers]:
            try:
                assert nbray.get(ref, timeout=DEADLINE_S) == number * 2
            except ex.WorkerCrashedError:
                self.done["a task that runs once died"] += 1

    def groups(self) -> None:
        """Tasks and an actor in the bundles of a group, which is then removed."""
        strategy = self.rng.choice(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])
        group = placement_group([{"slot": 1}, {"slot": 1}], strategy=strategy)
        assert group.wait(DEADLINE_S), f"a group ({strategy}) is not there"
        bundles = [PlacementGroupSchedulingStrategy(group, index) for index in (0, 1)]
        numbers = [self.rng.randrange(1000) for _ in range(6)]
        in_bundle = digest.options(num_cpus=0, resources={"slot": 0.5})
        account = Account.options(
            max_restarts=-1,
            max_task_retries=-1,
            num_cpus=0,
            resources={"slot": 0.5},
            scheduling_strategy=bundles[self.rng.randrange(2)],
        ).remote()
        refs = [
            in_bundle.options(scheduling_strategy=bundles[n % 2]).remote(self.shared, n)
            for n in numbers
        ]
        raw = self.shared_array.tobytes()
        expected = [hashlib.sha256(raw + str(n).encode()).hexdigest() for n in numbers]
        assert nbray.get(refs, timeout=DEADLINE_S) == expected
        totals: dict[int, int] = {}
        for pid, total in nbray.get([account.add.remote(1) for _ in range(5)], timeout=DEADLINE_S):
            assert totals.get(pid, 0) < total, "the actor of a group went back"
            totals[pid] = total
        remove_placement_group(group)
        try:
            nbray.get(account.add.remote(1), timeout=DEADLINE_S)
            # It ran before the group went: then the group ends it, and the next call says so.
            while True:
                nbray.get(account.add.remote(1), timeout=DEADLINE_S)
        except (ex.ActorPlacementGroupRemoved, ex.ActorDiedError):
            self.done["an actor went with its group"] += 1

    def digests(self) -> None:
        numbers = [self.rng.randrange(1000) for _ in range(20)]
        refs = [digest.remote(self.shared, number) for number in numbers]
        raw = self.shared_array.tobytes()
        expected = [hashlib.sha256(raw + str(n).encode()).hexdigest() for n in numbers]
        assert nbray.get(refs, timeout=DEADLINE_S) == expected

    def trees(self) -> None:
        number = self.rng.randrange(100)
        assert nbray.get(tree.remote(2, number), timeout=DEADLINE_S) == tree_sum(2, number)

    def chain(self) -> None:
        ref, total = self.zeros, 0.0
        for _ in range(5):
            by = float(self.rng.randrange(10))
            ref, total = grow.remote(ref, by), total + by
        assert (nbray.get(ref, timeout=DEADLINE_S) == total).all()

    def passing(self) -> None:
        inner, outer = nbray.get(pass_on.remote([self.shared]), timeout=DEADLINE_S)
        raw = self.shared_array.tobytes()
        try:
            found = nbray.get(inner, timeout=DEADLINE_S)
        except ex.OwnerDiedError:
            self.done["the owner of an inner ref died"] += 1  # its worker was killed
        else:
            assert found == hashlib.sha256(raw + b"17").hexdigest()
        assert len(nbray.get(outer, timeout=DEADLINE_S)) == len(self.shared_array)

    def streams(self) -> None:
        count = self.rng.randrange(1, 6)
        items = [int(nbray.get(ref, timeout=DEADLINE_S)[0]) for ref in stream.remote(count)]
        assert items == list(range(count))

    def accounts(self) -> None:
        amounts = [self.rng.randrange(1, 10) for _ in range(10)]
        for pid, total in nbray.get(
            [self.lasting.add.remote(a) for a in amounts], timeout=DEADLINE_S
        ):
            before = self.lasting_totals.get(pid, 0)
            assert before < total, f"process {pid} of the actor went back: {before}, {total}"
            self.lasting_totals[pid] = total
        try:
            for amount in amounts:
                _, total = nbray.get(self.mortal.add.remote(amount), timeout=DEADLINE_S)
                self.mortal_total += amount
                assert total == self.mortal_total
        except ex.ActorDiedError:
            self.done["a mortal actor died"] += 1
            self.mortal, self.mortal_total = Account.remote(), 0

    def keep(self) -> None:
        value = self.rng.random()
        self.kept.append((grow.remote(self.zeros, value), value))
        if len(self.kept) > 12:
            ref, expected = self.kept.pop(self.rng.randrange(len(self.kept)))
            assert (nbray.get(ref, timeout=DEADLINE_S) == expected).all()

    def finish(self) -> None:
        """Check and drop what is kept."""
        for ref, expected in self.kept:
            assert (nbray.get(ref, timeout=DEADLINE_S) == expected).all()
        self.kept.clear()
        self.blocks.clear()
        del self.shared, self.zeros, self.lasting, self.mortal
