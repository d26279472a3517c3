"""Writes the manifests of deploy/kubernetes anew, from the files beside them."""

from __future__ import annotations

from pathlib import Path

import yaml

from nbray.machines.kubernetes.cluster_file import read
from nbray.machines.kubernetes.objects import objects

_KUSTOMIZATION = """# kubectl apply -k {kind}, with a file `token` here:
#   python3 -c 'import secrets; print(secrets.token_hex(32))' >token
# Namespace and image are set here; names have `nbray` in them, and are not to be prefixed.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [nbray.yaml]
images:
  - name: registry.example/nbray
    newTag: "0.1"
secretGenerator:
  - name: nbray-token
    files: [token]
    options:
      disableNameSuffixHash: true
      labels: {{nbray.io/cluster: nbray}}
"""


class _Readable(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Readable.add_representer(str, _text)
_Readable.ignore_aliases = lambda *_: True  # type: ignore[method-assign]


def main() -> None:
    root = Path(__file__).parents[2] / "deploy" / "kubernetes"
    for kind in ("fixed", "growing"):
        made = objects(read(root / kind / "cluster.yaml"), "$(POD_NAMESPACE)")
        for one in made:
            del one["metadata"]["namespace"]
        text = yaml.dump_all(made, Dumper=_Readable, sort_keys=False, width=120)
        head = "# Made by tests/machines/manifests.py from cluster.yaml.\n"
        (root / kind / "nbray.yaml").write_text(head + text)
        (root / kind / "kustomization.yaml").write_text(_KUSTOMIZATION.format(kind=kind))


if __name__ == "__main__":
    main()
