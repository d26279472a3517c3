"""The edge of the autoscaler: looks at the cluster and the provider, and does what was decided.

One look after the other: what there is (a snapshot of the GCS, the provider's list), what follows
for each instance (`instances`), what is to be (`planner`). What was decided is stored in the GCS,
and then done. A provider that is slow holds nobody up: what is asked of it runs
beside the looks, one request of a kind at a time. Whatever does not answer is said in the report
that the GCS is given at every look, and asked again at the next.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from nbray.autoscaler import config as config_file
from nbray.autoscaler import demand
from nbray.autoscaler.instances import Instances, Life, Limits, Look, State
from nbray.autoscaler.model import Drain, Here, Launch, Plan
from nbray.autoscaler.planner import plan
from nbray.autoscaler.providers.base import (
    TYPE_LABEL,
    Cluster,
    Instance,
    Provider,
    ProviderError,
    Stage,
    Wanted,
)
from nbray.autoscaler.providers.opening import open_provider
from nbray.common.background import Background
from nbray.common.config import Config
from nbray.wire import scaling_messages as sm
from nbray.wire.gcs_messages import Empty, KvCount, KvDel, KvKey, KvKeys, KvPut, KvValue
from nbray.wire.grpc_service import GrpcClient, RpcError

logger = logging.getLogger(__name__)
T = TypeVar("T")

_INSTANCE = b"instance/"
_PROVIDER_S = 60.0
_GCS_S = 10.0
_GCS_KNOWS_ALL_S = 10.0
_ASK_AGAIN_S = 10.0
_IDLE_AGAIN_S = 10.0
_MOST_LINES = 2000
_MOST_ROWS = 1000
_MOST_REQUESTED = 100


class Autoscaler:
    """The autoscaler of one cluster.

    Args:
        gcs: the cluster's; calls wait for one that is away.
        file: the cluster's file, which is read again when it changes.
        cluster: makes what the provider is told out of what the file says.
        config: periods.
    """

    def __init__(
        self, gcs: GrpcClient, file: Path, cluster: Callable[[config_file.ScalingConfig], Cluster],
        config: Config,
    ) -> None:  # fmt: skip
        self._gcs = gcs
        self._file = file
        self._cluster = cluster
        self._period_s = config.autoscaler_update_interval_s
        self._limits = Limits(config.autoscaler_start_timeout_s)
        self._given = config_file.read(file)
        self._read_at = file.stat().st_mtime_ns
        self._provider: Provider = open_provider(cluster(self._given))
        self._instances = Instances((), self._limits)
        self._background = Background()
        self._troubles: dict[str, str] = {}
        self._busy: set[str] = set()
        self._create_after = 0.0
        self._listed: Sequence[Instance] | None = None
        self._listed_at = 0.0
        self._refused: dict[str, float] = {}
        self._learned: dict[str, dict[str, int]] = {}

    async def run(self) -> None:
        """Look again and again until cancelled.

        Raises:
            RpcError: the GCS refuses, or has been away for longer than calls wait.
        """
        await self._load()
        while True:
            began = time.monotonic()
            try:
                await self._look()
            except RpcError as error:
                logger.warning("The cluster was not looked at: %s", error)
            except Exception:  # the next look may do without what raised it
                logger.exception("A look at the cluster failed")
            await asyncio.sleep(max(0.05, self._period_s - (time.monotonic() - began)))

    async def close(self) -> None:
        """Leave; the instances stay."""
        await self._provider.close()

    # --- one look --------------------

    async def _look(self) -> None:
        await self._read_again()
        self._start("list", self._list)
        snapshot = await self._gcs.call("ScalingSnapshot", Empty(), sm.Snapshot, _GCS_S)
        now = time.time()
        nodes = demand.joined(snapshot.nodes)
        for node in snapshot.nodes:
            kind = node.labels.get(TYPE_LABEL)
            if kind is not None:
                self._learned[kind] = dict(node.total)
        for name, one in nodes.items():
            if self._instances.get(name) is None:
                kind = next(
                    node.labels.get(TYPE_LABEL, "")
                    for node in snapshot.nodes
                    if node.node_id == one.node_id
                )
                life = Life(name, kind, "its node was here already")
                self._instances.add(life, now)
        listed, self._listed = self._listed, None
        look = self._instances.look(
            listed, self._listed_at, nodes, now, snapshot.up_s > _GCS_KNOWS_ALL_S
        )
        await self._carry_on(look)
        given = self._given.bounded(snapshot.bounds)
        rules = given.rules(self._instances.not_before, self._learned)
        there = demand.here(snapshot, self._instances, rules, self._refused, now)
        decided = plan(rules, there, demand.wanted(snapshot), now)
        if self._listed_at:  # before, it is not known what there is
            await self._carry_out(decided, now)
        await self._report(given, decided, there, snapshot.requested, now)

    async def _carry_on(self, look: Look) -> None:
        """What follows from what was seen."""
        for life in look.changed:
            logger.info("%s", life.story[-1])
        await self._store(look.changed, look.gone)
        for life in look.failed:
            logger.warning("Instance %s failed: %s", life.id, life.failed)
            # Its logs are read before it is ended.
            if life.id in look.terminate:
                look.terminate.remove(life.id)
            self._background.start(self._end_failed(life.id))
        if look.terminate:
            self._background.start(self._terminate(look.terminate))

    async def _carry_out(self, decided: Plan, now: float) -> None:
        """What was planned: stored, then done."""
        new = [self._new(launch, now) for launch in decided.launch for _ in range(launch.count)]
        await self._store(new, [])
        for drain in decided.drain:
            life = self._instances.get(drain.id)
            if life is None:
                continue
            if life.on_its_way:
                given_up = self._instances.give_up(drain.id, drain.why, now)
                await self._store([] if given_up is None else [given_up], [])
            else:
                await self._drain(life, drain, now)
        if time.monotonic() >= self._create_after and self._instances.queued():
            self._start("create", self._create)

    def _new(self, launch: Launch, now: float) -> Life:
        # A type may have a name that no pod or job may have; the label of the node says it.
        life = Life(f"nbray-{secrets.token_hex(6)}", launch.type, launch.why)
        logger.info("Instance %s of type %s is launched: %s.", life.id, life.type, launch.why)
        self._instances.add(life, now)
        return life

    async def _drain(self, life: Life, drain: Drain, now: float) -> None:
        request = sm.DrainNode(life.node_id, drain.why, drain.deadline_s, drain.only_idle)
        answer = await self._gcs.call("DrainNode", request, sm.Drained, _GCS_S)
        if not answer.accepted:
            logger.info("Instance %s stays: %s.", life.id, answer.why)
            self._refused[life.id] = now + _IDLE_AGAIN_S
            return
        logger.info("Instance %s drains: %s.", life.id, drain.why)
        deadline = now + drain.deadline_s if drain.deadline_s else 0.0
        drained = self._instances.drains(life.id, drain.why, deadline, now)
        await self._store([] if drained is None else [drained], [])

    # --- the file --------------------

    async def _read_again(self) -> None:
        """Take in a file that was changed; one that cannot be used changes nothing."""
        try:
            changed = self._file.stat().st_mtime_ns
            if changed == self._read_at:
                return
            self._read_at = changed
            given = config_file.read(self._file)
            if given.document.get("provider") != self._given.document.get("provider"):
                provider = open_provider(self._cluster(given))
                await self._provider.close()
                self._provider = provider
            self._given = given
        except (OSError, config_file.ScalingConfigError, ProviderError) as error:
            self._trouble("file", f"The file as it is now is not used: {error}")
        else:
            logger.info("The file has changed, and is used from now on.")
            self._trouble("file", "")

    def _trouble(self, about: str, text: str) -> None:
        if text and self._troubles.get(about) != text:
            logger.warning("%s", text)
        self._troubles[about] = text

    # --- the provider, beside the looks --------------------

    def _start(self, kind: str, work: Callable[[], Awaitable[None]]) -> None:
        """Begin something, unless the last one of its kind still goes on."""
        if kind in self._busy:
            return
        self._busy.add(kind)

        async def run() -> None:
            try:
                await work()
            except Exception:  # the provider is the user's, perhaps
                logger.exception("The provider failed to %s", kind)
                self._trouble(kind, f"The provider failed to {kind}: see autoscaler.log.")
            finally:
                self._busy.discard(kind)

        self._background.start(run())

    async def _ask(self, kind: str, work: Awaitable[T]) -> T | None:
        """The provider's answer; None if it gives none, which the report says."""
        try:
            async with asyncio.timeout(_PROVIDER_S):
                answer = await work
        except TimeoutError:
            self._trouble(kind, f"The provider did not {kind} in {_PROVIDER_S:.0f} s.")
        except ProviderError as error:
            self._trouble(kind, f"The provider could not {kind}: {error}")
        else:
            self._trouble(kind, "")
            return answer
        return None

    async def _list(self) -> None:
        at = time.time()
        listed = await self._ask("list", self._provider.list())
        if listed is not None:
            self._listed, self._listed_at = listed, at

    async def _create(self) -> None:
        """Ask for all that are queued, as often as it takes."""
        queued = self._instances.queued()
        types = self._given.types
        asked = [Wanted(id=x.id, type=types[x.type]) for x in queued if x.type in types]
        if not asked:
            return
        refused = await self._ask("create", self._provider.create(asked))
        now = time.time()
        if refused is None:
            self._create_after = time.monotonic() + _ASK_AGAIN_S
            return
        changed: list[Life | None] = []
        for one in asked:
            if one.id in refused:
                changed.append(self._instances.refused(one.id, refused[one.id], now))
            else:
                changed.append(self._instances.asked(one.id, now, now))
        await self._store([life for life in changed if life is not None], [])

    async def _terminate(self, ids: Sequence[str]) -> None:
        await self._ask("terminate", self._provider.terminate(ids))

    async def _end_failed(self, id: str) -> None:
        """Keep what an instance said last, and end it."""
        lines = await self._ask("read the logs", self._provider.logs(id))
        self._instances.said(id, (lines or "")[-_MOST_LINES:])
        await self._terminate([id])

    # --- the GCS --------------------

    async def _load(self) -> None:
        """The instances that a former process stored."""
        reply = await self._gcs.call("KvKeys", KvKey(sm.SCALING, _INSTANCE), KvKeys)
        lives = []
        for key in reply.keys:
            stored = await self._gcs.call("KvGet", KvKey(sm.SCALING, key), KvValue)
            if stored.value is not None:
                lives.append(msgspec.msgpack.decode(stored.value, type=Life))
        self._instances = Instances(lives, self._limits)
        logger.info("There are %d instances.", len(lives))

    async def _store(self, changed: Sequence[Life], gone: Sequence[str]) -> None:
        """Returns when it is durable."""
        calls: list[Awaitable[KvCount]] = [
            self._gcs.call(
                "KvPut",
                KvPut(sm.SCALING, _INSTANCE + life.id.encode(), msgspec.msgpack.encode(life)),
                KvCount,
            )
            for life in changed
        ]
        calls += [
            self._gcs.call("KvDel", KvDel(sm.SCALING, _INSTANCE + id.encode()), KvCount)
            for id in gone
        ]
        await asyncio.gather(*calls)

    async def _report(
        self, given: config_file.ScalingConfig, decided: Plan, there: Sequence[Here],
        requested: sm.Requested | None, now: float,
    ) -> None:  # fmt: skip
        kept = {one.id: decided.kept_by.get(one.id, ()) for one in there}
        rows = [self._row(life, kept) for life in self._instances.all()]
        rows += [
            sm.InstanceRow(one.id, one.type, State.STARTING, now, b"", one.place, one.why, [])
            for one in self._instances.by_others()
        ]
        report = sm.ScalingReport(
            now, given.name,
            {name: (one.min_workers, one.max_workers) for name, one in given.types.items()},
            given.most, rows[:_MOST_ROWS],
            [
                sm.ScalingFailure(one.type, one.when, one.why, one.lines)
                for one in self._instances.failures
            ],
            [text for text in self._troubles.values() if text],
            list(decided.unmet), self._coming(),
            [] if requested is None else requested.bundles[:_MOST_REQUESTED],
        )  # fmt: skip
        await self._gcs.call("ReportScaling", report, Empty, _GCS_S)

    def _row(self, life: Life, kept: Mapping[str, Sequence[str]]) -> sm.InstanceRow:
        seen = self._instances.seen(life.id)
        why = life.failed or (seen.why if seen is not None and life.on_its_way else "")
        place = "" if seen is None else seen.place
        return sm.InstanceRow(
            life.id, life.type, life.state, life.since, life.node_id, place, why or life.why,
            list(kept.get(life.id, ())),
        )  # fmt: skip

    def _coming(self) -> list[str]:
        """What those who wait are told: which nodes come, and what these wait for."""
        by_reason: dict[tuple[str, str], int] = {}
        for life in self._instances.all():
            if life.on_its_way:
                seen = self._instances.seen(life.id)
                waits = seen is not None and seen.stage is Stage.WAITING
                why = seen.why if waits and seen is not None else ""
                state = "is asked for" if life.state is not State.STARTING else "is being started"
                key = life.type, why or state
                by_reason[key] = by_reason.get(key, 0) + 1
        sentences = []
        for (kind, why), count in list(by_reason.items())[:5]:
            nodes = f"A node of type {kind}" if count == 1 else f"{count} nodes of type {kind}"
            sentences.append(f"{nodes} will come: {why}.")
        return sentences
