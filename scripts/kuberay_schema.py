"""Reduces KubeRay's CRD of RayJob to the JSON schema that the tests read.

    python scripts/kuberay_schema.py ray.io_rayjobs.yaml v1.7.0 > tests/cluster/data/kuberay-rayjob.json

The CRD is ``ray-operator/config/crd/bases/ray.io_rayjobs.yaml`` of KubeRay (Apache-2.0). A RayJob holds the
specification of a RayCluster whole, so that one file serves both. Descriptions go, and what stands there several times
is kept once.
"""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path
from typing import Any

import yaml

SHORTEST = 400
"""Characters from which on a part that comes twice gets a name."""


def reduced(node: Any) -> Any:
    """Without descriptions and Kubernetes' own notes; a field that is not named is refused, as by a server."""
    if isinstance(node, list):
        return [reduced(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: {name: reduced(value) for name, value in below.items()} if key == "properties" else reduced(below)
        for key, below in node.items()
        if key != "description" and not key.startswith("x-kubernetes-") and key != "format"
    }
    if "properties" in kept and not node.get("x-kubernetes-preserve-unknown-fields"):
        kept["additionalProperties"] = False
    if node.get("x-kubernetes-int-or-string"):
        kept = {"type": ["integer", "string"]}
    return kept


def shared(node: Any, counts: collections.Counter[str], named: dict[str, str], definitions: dict[str, Any]) -> Any:
    """``node`` with references in place of the parts that ``counts`` saw more than once."""
    if isinstance(node, list):
        return [shared(item, counts, named, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    text = json.dumps(node, sort_keys=True)
    below = {key: shared(value, counts, named, definitions) for key, value in node.items()}
    if counts[text] < 2 or len(text) < SHORTEST or "type" not in node:
        return below
    if text not in named:
        named[text] = f"part{len(named)}"
        definitions[named[text]] = below
    return {"$ref": f"#/definitions/{named[text]}"}


def count(node: Any, counts: collections.Counter[str]) -> None:
    if isinstance(node, dict):
        counts[json.dumps(node, sort_keys=True)] += 1
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        count(below, counts)


def main(path: Path, release: str) -> None:
    versions = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["versions"]
    (version,) = (item for item in versions if item["name"] == "v1")
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    spec = reduced(properties["spec"])
    counts: collections.Counter[str] = collections.Counter()
    count(spec, counts)
    definitions: dict[str, Any] = {}
    schema = {
        "$comment": "The spec of a RayJob (ray.io/v1), from ray-operator/config/crd/bases/ray.io_rayjobs.yaml of "
        f"https://github.com/ray-project/kuberay, release {release}, Apache License 2.0; reduced by "
        "scripts/kuberay_schema.py",
        **shared(spec, counts, {}, definitions),
        "definitions": definitions,
    }
    print(json.dumps(schema, separators=(",", ":"), sort_keys=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
