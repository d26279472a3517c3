"""The autoscaler's part of a cluster's file, and what is said of one that cannot be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nbray.autoscaler.config import LOCAL_TYPE, ScalingConfigError, check, read
from nbray.autoscaler.providers.base import Cluster, ProviderError, Wanted
from nbray.autoscaler.providers.opening import open_provider
from nbray.wire.scaling_messages import Bounds, Hold


def file(**more: Any) -> dict[str, Any]:
    small = {"resources": {"CPU": 1}, "max_workers": 3}
    given = {
        "cluster_name": "c", "provider": {"type": "fake"},
        "available_node_types": {"small": small},
    }  # fmt: skip
    return {**given, **more}


def with_type(**more: Any) -> dict[str, Any]:
    return file(available_node_types={"small": {"resources": {"CPU": 1}, **more}})


def test_rays_keys_mean_what_they_mean_there() -> None:
    given = file(idle_timeout_minutes=2, upscaling_speed=3, max_workers=7, head_node_type="head")
    given["available_node_types"]["head"] = {"resources": {"CPU": 64}}
    found = check(given)
    rules = found.rules({}, {})
    assert list(found.types) == ["small"], "the head's type is not started"
    assert (rules.most, rules.speed, rules.types["small"].idle_s) == (7, 3.0, 120.0)
    assert rules.types["small"].resources == {"CPU": 10_000}
    assert rules.types["small"].labels == {"nbray.io/node-type": "small"}


def test_a_list_of_machines_is_one_type_that_is_needed_only_if_it_can_change() -> None:
    local = {"type": "local", "head_ip": "h", "worker_ips": ["a", "b", "c"]}
    given: dict[str, Any] = {"cluster_name": "c", "provider": local}
    fixed = check(given)
    assert not fixed.is_needed and fixed.types[LOCAL_TYPE].max_workers == 3
    grows = check({**given, "min_workers": 1, "max_workers": 9})
    assert grows.is_needed
    assert (grows.types[LOCAL_TYPE].min_workers, grows.types[LOCAL_TYPE].max_workers) == (1, 3)
    learned = grows.rules({}, {LOCAL_TYPE: {"CPU": 80_000}}).types[LOCAL_TYPE]
    assert learned.resources == {"CPU": 80_000}, "what its nodes turned out to have"


def test_bounds_that_somebody_sets_go_before_the_files() -> None:
    found = check(file()).bounded(Bounds(2, 20))
    assert (found.types["small"].min_workers, found.types["small"].max_workers) == (2, 20)
    assert found.most == 20
    assert check(file()).bounded(Bounds(1, 1, "gone")) == check(file())


def test_a_cluster_that_is_held_has_what_has_to_be_or_nothing_of_any_type() -> None:
    given = file()
    given["available_node_types"]["big"] = {
        "resources": {"CPU": 8}, "min_workers": 2, "max_workers": 5,
    }  # fmt: skip
    bounds = {
        hold: {
            name: (one.min_workers, one.max_workers)
            for name, one in check(given).bounded(Bounds(0, 0, hold=hold)).types.items()
        }
        for hold in (Hold.LEAST, Hold.NONE)
    }
    assert bounds[Hold.LEAST] == {"small": (0, 0), "big": (2, 2)}
    assert bounds[Hold.NONE] == {"small": (0, 0), "big": (0, 0)}


def test_variables_stand_for_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME_OF_IT", "mine")
    assert check(file(cluster_name="${NAME_OF_IT}-1")).name == "mine-1"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "a cluster is a mapping"),
        ({"provider": {}}, "cluster_name"),
        (file(available_node_types={}), "names no type of workers"),
        (file(available_node_types=["a"]), "available_node_types is a mapping"),
        (file(provider={"type": "local", "worker_ips": 5}), "worker_ips is a list"),
        (file(provider="\ud800"), "surrogates not allowed"),
        (file(upscaling_speed=float("nan")), "upscaling_speed"),
        (file(upscaling_speed=float("inf")), "upscaling_speed is a number, not inf"),
        (file(idle_timeout_minutes=float("inf")), "idle_timeout_minutes is a number, not inf"),
        (file(max_workers=-1), "max_workers"),
        (file(head_node_type="x"), "head_node_type 'x' is none of available_node_types"),
        (file(cluster_name="${NO_SUCH_VARIABLE}"), "no variable NO_SUCH_VARIABLE"),
        (file(available_node_types={"a b": {"resources": {"CPU": 1}}}), "a type is a label"),
        (with_type(min_worker=2), "Did you mean min_workers?"),
        (with_type(min_workers=5, max_workers=2), "min_workers 5 is more than max_workers 2"),
        (with_type(resources={"CPU": -1}), "resources"),
        (with_type(resources={}), "resources says what a node of it has"),
        (with_type(idle_timeout_s=float("nan")), "idle_timeout_s"),
        (with_type(labels={"a b": "c"}), "label"),
        (with_type(labels={"nbray.io/node-type": "c"}), "the autoscaler sets"),
    ],
)
def test_what_cannot_be_is_said_with_its_place(given: Any, said: str) -> None:
    with pytest.raises(ScalingConfigError) as raised:
        check(given)
    assert said in str(raised.value)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("cluster_name: [")
    with pytest.raises(ScalingConfigError, match=r"c\.yaml cannot be read"):
        read(tmp_path / "c.yaml")


def test_the_words_that_start_a_node_name_its_instance() -> None:
    kind = check(file(available_node_types={
        "big": {"resources": {"CPU": 2, "GPU": 0.5, "memory": 1e9, "disk": 3}, "labels": {"a": "b"}}
    })).types["big"]  # fmt: skip
    words = Wanted(id="i-1", type=kind).start_words("h:1")
    assert words[:2] == ["start", "--address=h:1"]
    assert '"nbray.io/instance-id":"i-1"' in words[3] and '"a":"b"' in words[3]
    assert {"--num-cpus=2", "--num-gpus=0.5", "--memory=1000000000"} <= set(words)
    assert words[-2:] == ["--resources", '{"disk":3.0}']


def test_a_provider_of_the_users_own_is_found_and_an_unknown_one_is_named() -> None:
    own = {"provider": {"type": "external", "module": f"{__name__}.Own"}}
    assert isinstance(open_provider(cast(Cluster, SimpleNamespace(document=own))), Own)
    unknown = {"provider": {"type": "fog"}}
    with pytest.raises(ProviderError, match="'fog' is none of fake, kubernetes, local, slurm"):
        open_provider(cast(Cluster, SimpleNamespace(document=unknown)))


class Own:
    def __init__(self, cluster: object) -> None:
        self.cluster = cluster
