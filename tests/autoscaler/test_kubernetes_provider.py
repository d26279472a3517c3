"""Nodes as pods, against an API in memory: what it asks for, what it tells, what it survives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.kube_api import Fault, KubeApi, kube_api

from nbray.autoscaler.providers.base import Cluster, NodeType, ProviderError, Stage, Wanted
from nbray.autoscaler.providers.kubernetes import KubernetesProvider
from nbray.autoscaler.providers.opening import open_provider

T = TypeVar("T")
Work = Callable[[KubernetesProvider], Awaitable[T]]
SMALL = NodeType(name="Small_one", resources={"CPU": 0.5, "memory": 1e9, "x": 2}, max_workers=9)
QUOTA = 'pods "mine-a" is forbidden: exceeded quota: pods, requested: pods=1, used: pods=4'


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with kube_api() as made:
        yield made


@pytest.fixture
def use(api: KubeApi, tmp_path: Path) -> Callable[[Work[T]], T]:
    """Have a provider do something, one that has just been made each time."""
    section = {"type": "kubernetes", "image": "registry/nbray:1", "api_server": api.url}

    def run(work: Work[T]) -> T:
        cluster = Cluster(
            name="mine", address="mine-head-0.mine.default:6379", session=str(tmp_path),
            token_file="", document={"provider": section}, types={SMALL.name: SMALL},
        )  # fmt: skip

        async def with_it() -> T:
            provider = open_provider(cluster)
            assert isinstance(provider, KubernetesProvider)
            try:
                return await work(provider)
            finally:
                await provider.close()

        return asyncio.run(with_it())

    return run


Use = Callable[[Work[Any]], Any]


def make(use: Use, *ids: str, kind: NodeType = SMALL) -> dict[str, str]:
    refused: dict[str, str] = use(lambda p: p.create([Wanted(id=one, type=kind) for one in ids]))
    return refused


def listed(use: Use) -> dict[str, Any]:
    return {one.id: one for one in use(lambda p: p.list())}


def test_a_pod_is_found_again_by_its_id_and_is_made_once(api: KubeApi, use: Use) -> None:
    assert make(use, "a", "b") == {} == make(use, "b")
    assert api.names("pods") == ["mine-a", "mine-b"]
    pod = api.store.pod("mine-a")
    container = pod["spec"]["containers"][0]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert container["image"] == "registry/nbray:1"
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": "1000000000"}
    words = container["args"][4:]
    assert words[0] == "--address=mine-head-0.mine.default:6379"
    assert '{"x":2}' in words and '"nbray.io/instance-id":"a"' in words[2]
    seen = listed(use)
    assert {one.type for one in seen.values()} == {"Small_one"}
    assert seen["a"].stage is Stage.WAITING and seen["a"].place == "pod mine-a"


def test_many_pods_come_page_by_page(api: KubeApi, use: Use) -> None:
    api.largest_page = 7
    ids = [f"n{number}" for number in range(20)]
    make(use, *ids)
    assert set(listed(use)) == set(ids)


def test_what_a_pod_waits_for_and_how_it_ended_is_told_in_the_words_of_kubernetes(
    api: KubeApi, use: Use
) -> None:
    make(use, *"abcdefg")
    words = "0/3 nodes are available: 3 Insufficient cpu."
    false = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    api.set_status("mine-a", conditions=[{**false, "message": words}])
    api.warn("mine-b", "FailedCreatePodSandBox", "no addresses are left")
    true = [{"type": "PodScheduled", "status": "True"}]
    pulling = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nbray:9"'}
    api.set_status(
        "mine-c", conditions=true,
        containerStatuses=[{"name": "node", "state": {"waiting": pulling}}],
    )  # fmt: skip
    api.set_status("mine-d", phase="Running", conditions=true)
    evicted = "The node was low on resource: memory."
    api.set_status("mine-e", phase="Failed", reason="Evicted", message=evicted)
    killed = {"reason": "OOMKilled", "exitCode": 137}
    api.set_status(
        "mine-f", phase="Failed",
        containerStatuses=[{"name": "node", "state": {"terminated": killed}}],
    )  # fmt: skip
    api.set_status("mine-g", phase="Running", conditions=true)
    api.do(api.store.delete(("v1", "pods", "default", "mine-g")))
    seen = listed(use)
    told = {id: (one.stage, one.why) for id, one in seen.items()}
    assert told == {
        "a": (Stage.WAITING, f"Pod mine-a: {words}"),
        "b": (Stage.WAITING, "Pod mine-b: FailedCreatePodSandBox: no addresses are left"),
        "c": (Stage.STARTING,
              'Pod mine-c: ImagePullBackOff: Back-off pulling image "nbray:9"'),
        "d": (Stage.RUNNING, ""),
        "e": (Stage.ENDED, f"Pod mine-e: Evicted: {evicted}"),
        "f": (Stage.ENDED, "Pod mine-f: OOMKilled (exit code 137)"),
        "g": (Stage.RUNNING, "Pod mine-g: its pod is being removed"),
    }  # fmt: skip
    assert seen["g"].ends is not None and seen["d"].ends is None


def test_what_is_refused_for_good_is_told_and_what_may_pass_is_an_error(
    api: KubeApi, use: Use
) -> None:
    api.refuse("POST", "/pods", Fault(403, "Forbidden", QUOTA), times=1)
    refused = make(use, "a")
    assert refused == {"a": f"Kubernetes refuses the pod (403): {QUOTA}"}
    invalid = make(use, "b", kind=NodeType(
        name="t", resources={}, node_config={"spec": {"containers": [{"imagePullPolicy": 7}]}}
    ))  # fmt: skip
    pytest.importorskip("kubernetes_validate")
    assert "imagePullPolicy" in invalid["b"] and "(422)" in invalid["b"]
    for fault in (
        Fault(409, "Conflict", "Operation cannot be fulfilled on resourcequotas"),
        Fault(429, "TooManyRequests", "too many requests"),
        Fault(503, "ServiceUnavailable", "etcd is away"),
    ):
        api.refuse("POST", "/pods", fault, times=1)
        with pytest.raises(ProviderError, match=fault.message):
            make(use, "c")
    assert make(use, "c") == {} and set(listed(use)) == {"c"}


def test_an_api_that_is_away_is_an_error_and_no_empty_list(api: KubeApi, use: Use) -> None:
    make(use, "a")
    with api.away():
        for work in (lambda: listed(use), lambda: make(use, "b"),
                     lambda: use(lambda p: p.terminate(["a"]))):  # fmt: skip
            with pytest.raises(ProviderError, match="does not answer"):
                work()
    assert set(listed(use)) == {"a"}
    for fault in (Fault(401, "Unauthorized", "Unauthorized"), Fault(500, "", "broken")):
        api.refuse("GET", "/pods", fault, times=1)
        with pytest.raises(ProviderError, match="does not list pods"):
            listed(use)


def test_what_a_pod_said_stays_when_it_is_removed(api: KubeApi, use: Use, tmp_path: Path) -> None:
    make(use, "a", "b")
    said = "x" * 50_000 + "\nthe disk is full: ü\n"
    api.logs["mine-a"] = said
    assert use(lambda p: p.logs("a")) == said[-8192:] and use(lambda p: p.logs("zz")) == ""
    use(lambda p: p.terminate(["a", "b", "never"]))
    assert api.names("pods") == []
    assert (tmp_path / "logs" / "pod-mine-a.log").read_text() == said
    assert not (tmp_path / "logs" / "pod-mine-b.log").exists()


def test_pods_end_with_what_made_the_head_s_pod(
    api: KubeApi, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("apps/v1", "statefulsets", "default", "mine-head")
    made = api.do(api.store.add(place, {"kind": "StatefulSet", "spec": {"replicas": 1, "template": {
        "metadata": {"labels": {}}, "spec": {"containers": [{"name": "node", "image": "mine"}]},
    }}}))  # fmt: skip
    monkeypatch.setenv("POD_NAME", "mine-head-0")
    while "mine-head-0" not in api.names("pods"):
        api.do(asyncio.sleep(0.01))
    make(use, "a")
    owner = api.store.pod("mine-a")["metadata"]["ownerReferences"]
    assert [one["uid"] for one in owner] == [made["metadata"]["uid"]]
    api.do(api.store.delete(place))
    while api.names("pods"):
        api.do(asyncio.sleep(0.01))


def test_outside_of_a_pod_somebody_has_to_say_where_the_api_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    cluster = Cluster(
        name="mine", address="h:1", session="/nowhere", token_file="", types={},
        document={"provider": {"type": "kubernetes"}},
    )  # fmt: skip
    with pytest.raises(ProviderError, match=r"provider\.api_server"):
        open_provider(cluster)
