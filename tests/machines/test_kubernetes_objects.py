"""The objects of a cluster on Kubernetes: those in deploy/, the schemas, what a file says."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nbray.machines import certificates
from nbray.machines.cluster_file import ClusterFileError
from nbray.machines.kubernetes.cluster_file import check, is_kubernetes, read
from nbray.machines.kubernetes.kubectl import Kubectl
from nbray.machines.kubernetes.objects import certificate_secret, objects, secret
from nbray.machines.kubernetes.pods import merged, node_pod
from nbray.machines.kubernetes.up import why_not_ready
from nbray.wire.certificates import Authority

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
TYPES: dict[str, Any] = {"top": {}, "small": {"min_workers": 1}}
GIVEN: dict[str, Any] = {
    "cluster_name": "mine", "provider": {"type": "kubernetes", "image": "i"},
    "available_node_types": TYPES, "head_node_type": "top",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["fixed", "growing"])
def test_the_manifests_are_what_up_would_make_of_the_file_beside_them(kind: str) -> None:
    """To write them anew: tests/machines/manifests.py."""
    made = objects(read(DEPLOY / kind / "cluster.yaml"), "$(POD_NAMESPACE)")
    for one in made:
        del one["metadata"]["namespace"]
    found = list(yaml.safe_load_all((DEPLOY / kind / "nbray.yaml").read_text()))
    assert found == made


@pytest.mark.parametrize("kind", ["fixed", "growing"])
def test_what_is_made_passes_the_strict_schemas(kind: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    wanted = read(DEPLOY / kind / "cluster.yaml")
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}
    for one in [*objects(wanted, "space", owner), secret(wanted, "space", "t" * 64)]:
        validate(one, "1.32", strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="it needs kubectl")
@pytest.mark.parametrize("kind", ["fixed", "growing"])
def test_kustomize_takes_the_folder_with_a_token_of_ones_own(kind: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / kind, tmp_path / kind)
    (tmp_path / kind / "token").write_text("f" * 64)
    command = ["kubectl", "kustomize", str(tmp_path / kind)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    kinds = [one["kind"] for one in yaml.safe_load_all(built.stdout)]
    assert {"Secret", "StatefulSet", "Service", "NetworkPolicy"} <= set(kinds)
    assert ("Role" in kinds) == (kind == "growing") != ("Deployment" in kinds)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster_name": "Mine"}, "lower-case letters"),
        ({"cluster_name": "m" * 41}, "at most 40"),
        ({"head_node_type": "tip"}, "head_node_type 'tip' is none"),
        ({"provider": {"type": "kubernetes"}}, "provider.image is missing"),
        ({"provider": {"type": "kubernetes", "image": "i", "namespce": "x"}}, "namespce"),
        ({"setup_commands": []}, "the image's matter"),
        ({"idle_timeout_minute": 1}, "Did you mean idle_timeout_minutes?"),
        ({"available_node_types": {"top": {"resources": {"CPU": "x"}}}}, "resources"),
    ],
)
def test_what_a_file_cannot_say_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ClusterFileError, match=said.replace("?", r"\?")):
        check(GIVEN | changed)


def test_a_file_that_is_none_is_left_to_others(tmp_path: Path) -> None:
    for text in ("", "- 1", "provider: 3", "provider: {type: local}", "{", "\0"):
        (tmp_path / "f").write_text(text)
        assert not is_kubernetes(tmp_path / "f")
    assert not is_kubernetes(tmp_path / "none")


def test_a_part_of_a_pod_is_laid_over_ours_name_by_name() -> None:
    config = {
        "metadata": {"labels": {"team": "a", "nbray.io/cluster": "stolen"}},
        "spec": {
            "containers": [
                {"name": "any", "env": [{"name": "X", "value": "1"}], "image": "other"},
                {"name": "beside", "image": "proxy"},
            ],
            "nodeSelector": {"disk": "ssd"},
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }
    pod = node_pod("mine", image="i", words=["--a"], resources={"GPU": 1, "memory": 5.0, "x": 1},
                   node_config=config, labels={"l": "v"})  # fmt: skip
    first, second = pod["spec"]["containers"]
    assert (first["name"], first["image"], second["name"]) == ("node", "other", "beside")
    assert {"X", "POD_IP"} <= {one["name"] for one in first["env"]}
    assert first["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "5"}
    assert [one["name"] for one in pod["spec"]["volumes"]] == ["token", "tmp", "data"]
    assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
    labels = pod["metadata"]["labels"]
    assert labels["team"] == "a" and labels["nbray.io/cluster"] == "mine" and labels["l"] == "v"
    assert merged([1], [2]) == [1] and merged({"a": None}, {"a": 1}) == {"a": None}


def test_types_that_may_grow_are_left_to_the_autoscaler_and_get_rights() -> None:
    kinds = [one["kind"] for one in objects(check(GIVEN), "s")]
    assert "Deployment" in kinds and "Role" not in kinds
    grows = check(GIVEN | {"available_node_types": TYPES | {"small": {"max_workers": 3}}})
    made = {one["kind"]: one for one in objects(grows, "s")}
    assert "Deployment" not in made and "Role" in made
    again = yaml.safe_load(made["ConfigMap"]["data"]["cluster.yaml"])
    assert check(again) == grows
    pod = made["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"]


def test_why_a_pod_is_not_ready_is_in_kubernetes_words() -> None:
    ended = {"reason": "OOMKilled", "exitCode": 137}
    statuses: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({"containerStatuses": [{"lastState": {"terminated": ended}}]},
         "OOMKilled (exit code 137)"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low"}, "Evicted: low"),
    ]  # fmt: skip
    for status, said in statuses:
        assert why_not_ready({"metadata": {}, "status": status}) == said


def _node_pods(wanted: Any) -> list[dict[str, Any]]:
    made = objects(wanted, "space", certificate="of today" if wanted.tls else "")
    return [one["spec"]["template"] for one in made if "template" in one.get("spec", {})]


def test_tls_is_a_variable_or_a_secret_that_all_pods_mount_and_no_word_of_a_command(
    tmp_path: Path,
) -> None:
    for pod in _node_pods(check(GIVEN | {"tls": True})):
        container = pod["spec"]["containers"][0]
        assert {"name": "NBRAY_USE_TLS", "value": "1"} in container["env"]
        assert not [one for one in pod["spec"]["volumes"] if one["name"] == "tls"]
    Authority.of(tmp_path / "ca")
    wanted = check(GIVEN | {"tls": str(tmp_path / "ca")})
    files = certificates.shared_by_all(str(tmp_path / "ca"), ["mine-head-0.mine.space"])
    made = certificate_secret(wanted, "space", files)
    validate = pytest.importorskip("kubernetes_validate").validate
    validate(made, "1.32", strict=True)
    pods = _node_pods(wanted)
    assert len(pods) == 2
    for pod in pods:
        (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "tls"]
        assert volume["secret"] == {"secretName": "mine-tls", "defaultMode": 0o440}
        assert pod["metadata"]["annotations"] == {"nbray.io/certificate": "of today"}
        assert "PRIVATE" not in str(pod)


def test_a_certificate_will_do_until_its_last_month_and_for_its_authority(tmp_path: Path) -> None:
    folder = str(tmp_path / "ca")
    authority = Authority.of(tmp_path / "ca")
    files = certificates.shared_by_all(folder, [])
    assert certificates.will_do(folder, files)
    assert not certificates.will_do(folder, {})
    assert not certificates.will_do(folder, files | {"ca.crt": b"another"})
    assert not certificates.will_do(folder, files | {"tls.crt": authority.sign([], 29).certificate})


def test_hundreds_of_workers_are_one_object() -> None:
    many = check(GIVEN | {"available_node_types": TYPES | {"small": {"min_workers": 500}}})
    made = objects(many, "space")
    assert len(made) == len(objects(check(GIVEN), "space"))
    assert [one["spec"]["replicas"] for one in made if one["kind"] == "Deployment"] == [500]


def test_what_kubectl_says_of_many_pods_is_read_to_its_end(tmp_path: Path) -> None:
    program = tmp_path / "kubectl"
    pods = {"items": [{"metadata": {"name": f"pod {n}", "x": "y" * 10_000}} for n in range(500)]}
    (tmp_path / "said").write_text(json.dumps(pods, indent=1))
    program.write_text(f"#!/bin/sh\nexec cat {tmp_path}/said\n")
    program.chmod(0o755)
    found = asyncio.run(Kubectl(str(program), "", "n").get("listing the pods", "pods"))
    assert len(found["items"]) == 500
