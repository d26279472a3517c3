"""Files in YAML that are none: whoever reads one says which file it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbray.autoscaler import config
from nbray.autoscaler.config import ScalingConfigError
from nbray.launcher.described import NodeOptionError, described
from nbray.machines import cluster_file
from nbray.machines.cluster_file import ClusterFileError
from nbray.machines.kubernetes import cluster_file as kubernetes


@pytest.mark.parametrize(
    "text",
    [
        b"a: 2001-99-99",
        b"a: !!int x",
        b"[" * 3000,
        b"a: \xff",
        b"a: [",
        b"? [1]: 2",
        b"cluster_name: &a [*a]",
        b'provider: "\\ud800"',
        b"available_node_types: 5",
    ],
)
def test_whatever_is_no_yaml_is_said_with_its_file(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(text)
    for read_one in (cluster_file.read, kubernetes.read):
        with pytest.raises(ClusterFileError, match=r"c\.yaml"):
            read_one(file)
    assert not kubernetes.is_kubernetes(file)
    with pytest.raises(ScalingConfigError, match=r"c\.yaml"):
        config.read(file)
    with pytest.raises(NodeOptionError):
        described({"labels_file": file})
