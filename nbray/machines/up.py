"""Carrying a plan out: all machines at once, the nodes of workers when the head is there."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from nbray.common.addresses import joined
from nbray.machines import certificates, scaling, scripts, starting
from nbray.machines.board import Board, Outcome
from nbray.machines.cluster import Cluster
from nbray.machines.cluster_file import ClusterFileError
from nbray.machines.found import Found
from nbray.machines.hosts import Host, HostError
from nbray.machines.mounts import ends
from nbray.machines.plan import Machine, NodePlan, Plan, Restart, Step, Wanted, make_plan

_QUICK_S = 30.0
_STARTS = {Step.START, Step.COME_BACK}
_BOOTSTRAP = "ray_bootstrap_config.yaml"  # where start commands for Ray look for the cluster's file


@dataclass(frozen=True)
class Facts:
    """What a plan was made of: what each host is to have, what it answered, and the plan."""

    wanted: Mapping[str, Wanted]
    found: Mapping[str, Found]
    plan: Plan


async def look(cluster: Cluster, restart: Restart = Restart.IF_CHANGED) -> Facts:
    """Ask all hosts at once, and plan.

    Raises:
        ClusterFileError: a file that is to be copied is not there, or the cluster has its head
            elsewhere.
    """
    described = asyncio.create_task(asyncio.to_thread(cluster.described))
    answers = await asyncio.gather(*(host.ask() for host in cluster.hosts))
    found = {host.machine.name: answer for host, answer in zip(cluster.hosts, answers, strict=True)}
    wanted = await described
    refuse_second_head(cluster, answers[0])
    plan = make_plan(wanted, found, restart)
    return Facts({one.machine.name: one for one in wanted}, found, plan)


async def up(cluster: Cluster, facts: Facts, board: Board) -> list[Outcome]:
    """Do what the plan says.

    Args:
        cluster: the cluster.
        facts: of `look`.
        board: shows what happens.

    Returns:
        One for each machine, the head first; where one failed, the others went on.
    """
    loop = asyncio.get_running_loop()
    head = _Head(loop.create_future(), loop.create_future())
    token = facts.found[cluster.head.machine.name].token or secrets.token_hex(32)
    work = _Up(cluster, facts, board, token, head)
    plans = {node.machine.name: node for node in facts.plan.nodes}
    try:
        if plans and _STARTS.isdisjoint(plans[cluster.head.machine.name].steps):
            await work.announce()  # else when the head is about to start
        outcomes = await asyncio.gather(
            *(work.host(host, plans.get(host.machine.name)) for host in cluster.hosts),
            *(work.leave(machine) for machine in facts.plan.leaving),
        )
        return await work.remember(outcomes)
    finally:
        await work.withdraw()


def refuse_second_head(cluster: Cluster, of_head: Found) -> None:
    """Login nodes share a home, and a cluster of jobs is its name: it has one head.

    Raises:
        ClusterFileError: another machine has it.
    """
    if cluster.wanted.autoscaling is None or of_head.session or not of_head.beside:
        return
    other = of_head.beside[0]
    raise ClusterFileError(
        f"The head of cluster {cluster.wanted.cluster_name} is on {other}: name it by "
        f"`head_ip: {other}` under provider, or run this command there."
    )


def role_of(machine: Machine) -> str:
    """head or worker."""
    return "head" if machine.is_head else "worker"


@dataclass(frozen=True)
class _Head:
    """What workers wait for: it is set up; it runs, as what it then answers. Or it has failed."""

    set_up: asyncio.Future[bool]
    running: asyncio.Future[Found | None]

    def fail(self) -> None:
        for one in (self.set_up, self.running):
            if not one.done():
                one.set_result(None)  # type: ignore[arg-type]


@dataclass
class _Up:
    cluster: Cluster
    facts: Facts
    board: Board
    token: str
    head: _Head
    _to_start: dict[str, str] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    _renewing: asyncio.Task[None] | None = None
    _fetched: asyncio.Task[None] | None = None
    _staging: tempfile.TemporaryDirectory[str] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.cluster.wanted.autoscaling is None and scaling.may_grow(self.cluster.wanted):
            self._to_start = {
                node.machine.name: scaling.instance_of_up(node.machine.name)
                for node in self.facts.plan.nodes
                if not node.machine.is_head and Step.START in node.steps
            }

    async def announce(self) -> None:
        """Tell the autoscaler of the head what is about to be started, from now on."""
        if not self._to_start or self._renewing is not None:
            return
        try:
            answer = await self._renew()
        except HostError as error:
            self.board.line(self.cluster.head.machine.name, f"Its autoscaler was not told: {error}")
            return
        runs = {name for name, found in self.facts.found.items() if found.runs}
        self._begun = starting.begun(answer) - runs
        self._renewing = asyncio.create_task(self._keep_renewing())

    async def _renew(self) -> str:
        head = self.cluster.head
        text = starting.announce(head.record, self._to_start)
        return await head.do("telling its autoscaler", text, timeout_s=_QUICK_S)

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(starting.RENEW_S)
            try:
                await self._renew()
            except HostError as error:  # the next one may come in time
                name = self.cluster.head.machine.name
                self.board.line(name, f"Its autoscaler was not told: {error}")

    async def withdraw(self) -> None:
        """Nothing more is started."""
        if self._renewing is None:
            return
        self._renewing.cancel()
        await asyncio.wait([self._renewing])
        head = self.cluster.head
        with suppress(HostError):  # it ends by itself
            text = starting.withdraw(head.record)
            await head.do("telling its autoscaler", text, timeout_s=_QUICK_S)

    async def host(self, host: Host, plan: NodePlan | None) -> Outcome:
        """All steps of one machine."""
        machine = host.machine
        try:
            if machine.name in self.facts.plan.failed:
                why = self.facts.plan.failed[machine.name]
                raise HostError("asking what it has", why)
            if plan is None:
                raise HostError("nothing was done", "the head does not answer")
            left = self._is_let_go() or machine.name in self._begun
            if not machine.is_head and plan.steps and left:
                # Its autoscaler is told to, or has begun: both would start one too many.
                took = self.board.done(machine.name, "left to the autoscaler")
                return Outcome(machine.name, "worker", "left to the autoscaler", "", took)
            return await self._carry_out(host, plan)
        except HostError as error:
            if await self._was_started_by_the_autoscaler(host):
                took = self.board.done(machine.name, "left to the autoscaler")
                return Outcome(machine.name, "worker", "left to the autoscaler", "", took)
            took = self.board.done(machine.name, "failed")
            return Outcome(machine.name, role_of(machine), "failed", str(error), took, error)
        finally:
            self._to_start.pop(machine.name, None)
            if machine.is_head:
                self.head.fail()  # if nothing better was said

    async def _was_started_by_the_autoscaler(self, host: Host) -> bool:
        """Whether it was quicker there: this `up` stood still, and its lease was over."""
        own = self._to_start.get(host.machine.name)
        if own is None or self._renewing is None:
            return False
        found = await host.ask()
        return found.runs and found.instance not in ("", own)

    def _is_let_go(self) -> bool:
        """Whether `down` has had the autoscaler of a head that runs let workers go."""
        name = self.cluster.head.machine.name
        steps = next((one.steps for one in self.facts.plan.nodes if one.machine.name == name), ())
        return self.facts.found[name].scaling == scaling.HELD and Step.SCALING in steps

    async def leave(self, machine: Machine) -> Outcome:
        """End the node of a machine that the file names no more."""
        host = self.cluster.host(machine)
        self.board.stage(machine.name, "leaves", "end its node: the file names it no more")
        try:
            await host.stop(forget=True)
        except HostError as error:
            took = self.board.done(machine.name, "failed")
            return Outcome(machine.name, "leaves", "failed", str(error), took, error)
        return Outcome(machine.name, "leaves", "ended", "", self.board.done(machine.name, "ended"))

    async def remember(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Have the head know all machines, so that those end that the file names no more."""
        failed = [one.name for one in outcomes if one.role == "leaves" and one.error is not None]
        head = self.cluster.head
        before = self.facts.found[head.machine.name]
        answered = [
            name for name, found in self.facts.found.items()
            if not found.error or name in before.hosts
        ]  # fmt: skip
        names = " ".join([*answered, *failed])
        if not before.error and names != " ".join(before.hosts) and outcomes[0].error is None:
            await head.do(
                "keeping the list of hosts", scripts.note(head.record, "hosts", names),
                timeout_s=_QUICK_S,
            )  # fmt: skip
        return list(outcomes)

    async def _carry_out(self, host: Host, plan: NodePlan) -> Outcome:
        machine = host.machine
        self.board.stage(machine.name, role_of(machine), plan.why or "is as it is wanted")
        host.on_line = lambda line: self.board.line(machine.name, line)
        if plan.steps:
            host.write_log(self.cluster.home.log(machine.name))
        found = self.facts.found[machine.name]
        for step in plan.steps:
            if step in _STARTS:
                self._is_set_up(host)
                found = await self._start(host, step)
            else:
                self.board.stage(machine.name, role_of(machine), step.value)
                await self._prepare(host, step)
        self._is_set_up(host)
        if machine.is_head:
            self.head.running.set_result(found)
        started = not _STARTS.isdisjoint(plan.steps)
        state = "started" if started else "set up" if plan.steps else "runs"
        took = self.board.done(machine.name, state)
        detail = f"node {found.node_id[:8]}" + (f": {plan.why}" if plan.why else "")
        return Outcome(machine.name, role_of(machine), state, detail, took)

    def _is_set_up(self, host: Host) -> None:
        if host.machine.is_head and not self.head.set_up.done():
            self.head.set_up.set_result(True)

    async def _prepare(self, host: Host, step: Step) -> None:
        wanted = self.cluster.wanted
        hashes = self.facts.wanted[host.machine.name]
        if step is Step.STOP:
            await host.stop(forget=False)
        elif step is Step.CONTAINER:
            assert host.container is not None
            await self._copy(host)
            await self._initialize(host)
            text = host.container.make(host.record_path)
            await host.do("making its container", text, inside=False)
        elif step is Step.FILES:
            await self._copy(host)
            if wanted.cluster_synced_files and not host.machine.is_head:
                await self._copy_from_head(host)
            await self._note(host, "files", hashes.files)
        elif step is Step.SCALING:
            await self._prepare_to_grow(host)
            await scaling.hold(host, "file", 0.0)
        else:
            if host.container is None:
                await self._initialize(host)
            for command in self.cluster.setup_commands(host.machine):
                self.board.stage(host.machine.name, role_of(host.machine), f"set-up: {command}")
                await host.command("a set-up command", command, {})
            await self._note(host, "setup", hashes.setup)

    async def _initialize(self, host: Host) -> None:
        for command in self.cluster.wanted.initialization_commands:
            self.board.stage(host.machine.name, role_of(host.machine), f"initialization: {command}")
            await host.command("an initialization command", command, {}, inside=False)

    async def _copy(self, host: Host) -> None:
        wanted = self.cluster.wanted
        await host.copy(wanted.file_mounts, wanted.rsync_exclude, wanted.rsync_filter)

    async def _copy_from_head(self, host: Host) -> None:
        """`cluster_synced_files`, by way of this machine: hosts have no keys to each other."""
        if not await self.head.set_up:
            raise HostError("waiting for files of the head", "the head was not set up")
        if self._staging is None:
            self._staging = tempfile.TemporaryDirectory(prefix="nbray-up-")
            self._fetched = asyncio.create_task(self._fetch(self._staging.name))
        assert self._fetched is not None
        await asyncio.shield(self._fetched)
        for place, path in enumerate(self.cluster.wanted.cluster_synced_files):
            name = path.rstrip("/").rpartition("/")[2]
            there, here = ends(path, f"{self._staging.name}/{place}/{name}")
            await host.make_room(there)
            await host.send(here, there)

    async def _fetch(self, folder: str) -> None:
        for place, path in enumerate(self.cluster.wanted.cluster_synced_files):
            await self.cluster.head.bring(path.rstrip("/"), f"{folder}/{place}/")

    async def _note(self, host: Host, name: str, value: str) -> None:
        await host.do(
            f"keeping what was done ({name})", scripts.note(host.record, name, value),
            timeout_s=_QUICK_S,
        )  # fmt: skip

    async def _prepare_to_grow(self, head: Host) -> None:
        """Have the head's autoscaler reach all machines of the pool, also those without nodes."""
        wanted = self.cluster.wanted
        self.board.stage(head.machine.name, "head", "prepares to grow")
        await scaling.prepare_head(wanted, head)
        await self._note(head, "scaling", self.facts.wanted[head.machine.name].scaling)
        if wanted.autoscaling is not None:
            return  # its workers are no machines that it logs in to
        public = await scaling.make_key(wanted, head)
        pool = [self.cluster.host(Machine(name)) for name in wanted.provider.worker_ips]
        for said in await scaling.let_in(public, pool):
            self.board.line(head.machine.name, f"It may not grow there: {said}")

    async def _start(self, host: Host, step: Step) -> Found:
        """Start a node, or bring a head back; what it answers then."""
        machine, record = host.machine, host.record
        before = self.facts.found[machine.name]
        exports = {
            "NBRAY_NODE_RECORD": record,
            "NBRAY_AUTH_TOKEN_PATH": f"{record}/token",
        }
        joined = ""
        if machine.is_head:
            address = _listens_on(host, before)
            exports["NBRAY_NODE_IP_ADDRESS"] = address.strip("[]")
            if step is Step.COME_BACK:
                exports["NBRAY_SESSION"] = scripts.remote_path(before.session)
            if scaling.may_grow(self.cluster.wanted):
                await self._prepare_to_grow(host)
                exports["NBRAY_AUTOSCALING_CONFIG"] = f"{record}/{scaling.FILE}"
                await self.announce()
        else:
            self.board.stage(machine.name, role_of(machine), "waits for the head")
            head = await self.head.running
            if head is None:
                raise HostError("its node was not started", "the head failed")
            address, joined = head.gcs_address.rpartition(":")[0], head.session
            if machine.name in self._to_start:
                labels = scaling.labels_of(self._to_start[machine.name])
                exports["NBRAY_NODE_LABELS"] = shlex.quote(labels)
        exports |= {"NBRAY_HEAD_IP": address, "RAY_HEAD_IP": address}
        self.board.stage(machine.name, role_of(machine), step.value)
        await host.do(
            "handing it the token", scripts.keep_stdin(record, "token"),
            stdin=f"{self.token}\n".encode(), timeout_s=_QUICK_S,
        )  # fmt: skip
        tls = self.cluster.wanted.tls
        for name, data in certificates.made_for(tls, [machine.name.strip("[]")]).items():
            await host.do(
                "handing it its certificate", scripts.keep_stdin(record, name), stdin=data,
                timeout_s=_QUICK_S,
            )  # fmt: skip
        exports |= certificates.exports(tls, record)
        commands = self.cluster.start_commands(machine)
        if any(_BOOTSTRAP in command for command in commands):
            await host.do(
                "handing it the file", scripts.keep_stdin('"$HOME"', _BOOTSTRAP),
                stdin=self.cluster.text.encode(), timeout_s=_QUICK_S,
            )  # fmt: skip
        for command in commands:
            await host.command("a start command", command, exports, may_be_cut=False)
        found = await host.ask()
        if not found.runs:
            raise HostError(
                "starting its node", found.error or "the start commands ended well, and no node "
                "runs: is there `nbray start` among them?",
            )  # fmt: skip
        done = f"{self.facts.wanted[machine.name].start} {joined or found.session}"
        await self._note(host, "start", done)
        return found


def _listens_on(host: Host, found: Found) -> str:
    """The address of a head for its nodes: the one that the file names, or that ssh came to."""
    if host.machine.listens_at:
        return joined(host.machine.listens_at, "").removesuffix(":")
    given = host.machine.name
    bare = given.strip("[]")
    if not host.machine.reached_at and found.own_address:
        own = ipaddress.ip_address(found.own_address.partition("%")[0])
        if not own.is_loopback:
            return f"[{own}]" if own.version == 6 else str(own)
    if given == "localhost":
        return "127.0.0.1"
    return f"[{bare}]" if ":" in bare else bare
