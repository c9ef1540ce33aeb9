"""The cluster files: valid by Ray's and KubeRay's own schemas, consistent with this project, and safe.

Each check is shown to see the mistake it is for: a file with that mistake planted fails it.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.config.loading import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER = ("aws.yaml", "gcp.yaml")
KUBERAY = ("raycluster.yaml", "rayjob.yaml")
SCHEMA = json.loads((Path(__file__).parent / "data" / "kuberay-rayjob.json").read_text(encoding="utf-8"))


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def cluster_of(tree: Any) -> Any:
    """The RayCluster's specification in a file of KubeRay's."""
    return tree["spec"].get("rayClusterSpec", tree["spec"])


def pods(tree: Any) -> Iterator[tuple[str, Any, Any]]:
    """(group, pod, container) of every group of a RayCluster."""
    cluster = cluster_of(tree)
    for name, group in [("head", cluster["headGroupSpec"])] + [
        (g["groupName"], g) for g in cluster["workerGroupSpecs"]
    ]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        yield name, pod, container


def seconds(container: Any) -> float:
    """How long a draining node waits before its processes end."""
    found = {item["name"]: item["value"] for item in container["env"]}
    return float(found["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])


# What is checked of the launcher's files.


def launcher_schema(tree: Any) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(tree)))


def launcher_room(tree: Any) -> None:
    kinds = tree["available_node_types"]
    assert tree["max_workers"] >= sum(kind["max_workers"] for kind in kinds.values())
    assert all(kind["min_workers"] <= kind["max_workers"] for kind in kinds.values())
    assert tree["head_node_type"] in kinds


def launcher_doors(tree: Any) -> None:
    assert tree["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for command in (*tree["head_start_ray_commands"], *tree["worker_start_ray_commands"]):
        assert "ray start" not in command or "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in tree["head_start_ray_commands"][-1]


def launcher_storage(tree: Any) -> None:
    assert "-v /shared:/shared" in tree["docker"]["run_options"]
    assert any("mount" in command and " /shared" in command for command in tree["initialization_commands"])


# What is checked of KubeRay's files.


def kuberay_schema(tree: Any) -> None:
    spec = tree["spec"] if tree["kind"] == "RayJob" else {"rayClusterSpec": tree["spec"]}
    jsonschema.validate(spec, SCHEMA)
    assert tree["apiVersion"] == "ray.io/v1"


def kuberay_ray(tree: Any) -> None:
    pinned = (ROOT / "requirements" / "base.in").read_text(encoding="utf-8")
    assert f"ray[data,default,train]=={cluster_of(tree)['rayVersion']}" in pinned


def kuberay_doors(tree: Any) -> None:
    cluster = cluster_of(tree)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    # KubeRay itself submits a RayJob, from another pod.
    shown = "0.0.0.0" if tree["kind"] == "RayJob" else "127.0.0.1"
    assert cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] == shown


def kuberay_grace(tree: Any) -> None:
    for name, pod, container in pods(tree):
        assert container["lifecycle"]["preStop"]["exec"]["command"][0] == "/bin/sh"
        if name != "head":
            assert seconds(container) < pod["terminationGracePeriodSeconds"]
    if tree["kind"] == "RayJob":
        environment = yaml.safe_load(tree["spec"]["runtimeEnvYAML"])
        (head,) = (pod for name, pod, _ in pods(tree) if name == "head")
        wait = int(environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
        assert 300 <= wait < head["terminationGracePeriodSeconds"]


def kuberay_storage(tree: Any) -> None:
    for _, pod, container in pods(tree):
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def kuberay_scaling(tree: Any) -> None:
    cluster = cluster_of(tree)
    assert cluster["enableInTreeAutoscaling"] is True
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def no_secrets(tree: Any) -> None:
    assert not re.search(r"(?i)(auth_token|api_key|password|secret)\"?: *\"?[^\"~ ]{12}", json.dumps(tree))


CHECKS: dict[str, tuple[Callable[[Any], None], ...]] = {
    **dict.fromkeys(LAUNCHER, (launcher_schema, launcher_room, launcher_doors, launcher_storage, no_secrets)),
    **dict.fromkeys(
        KUBERAY,
        (
            kuberay_schema,
            kuberay_ray,
            kuberay_doors,
            kuberay_grace,
            kuberay_storage,
            kuberay_scaling,
            no_secrets,
        ),
    ),
}


@pytest.mark.parametrize(("name", "check"), [(name, check) for name, checks in CHECKS.items() for check in checks])
def test_a_file_passes(name: str, check: Callable[[Any], None]) -> None:
    check(read(name))


def planted(tree: Any, path: str, value: Any) -> Any:
    """``tree`` with ``value`` at ``path``, or without what is there."""
    tree = copy.deepcopy(tree)
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    node = tree
    for part in way:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return tree


CONTAINER = "template/spec/containers/0"


@pytest.mark.parametrize(
    ("name", "path", "value", "check"),
    [
        ("aws.yaml", "max_worker", 3, launcher_schema),
        ("aws.yaml", "provider", None, launcher_schema),
        ("aws.yaml", "available_node_types/spot/max_workers", "many", launcher_schema),
        ("gcp.yaml", "available_node_types/spot/resource", {"GPU": 4}, launcher_schema),
        ("gcp.yaml", "head_node_type", "haed", launcher_room),
        ("aws.yaml", "available_node_types/spot/max_workers", 40, launcher_room),
        ("aws.yaml", "file_mounts", {}, None),
        ("aws.yaml", "worker_start_ray_commands/1", "ray start --address=$RAY_HEAD_IP:6379", launcher_doors),
        (
            "gcp.yaml",
            "head_start_ray_commands/1",
            "RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0",
            launcher_doors,
        ),
        ("gcp.yaml", "docker/run_options/1", "-v /share:/shared", launcher_storage),
        ("raycluster.yaml", "spec/enableInTreeAutoscalling", True, kuberay_schema),
        ("raycluster.yaml", "spec/workerGroupSpecs/1/maxReplicas", "4", kuberay_schema),
        ("raycluster.yaml", "spec/headGroupSpec/" + CONTAINER + "/lifecycle/preStop/exec/cmd", ["x"], kuberay_schema),
        ("raycluster.yaml", "spec/workerGroupSpecs/0/" + CONTAINER + "/resources/limit", {}, kuberay_schema),
        ("raycluster.yaml", "spec/workerGroupSpecs/0/groupName", None, kuberay_schema),
        ("rayjob.yaml", "spec/backoffLimits", 3, kuberay_schema),
        ("rayjob.yaml", "spec/rayClusterSpec/authOptions/mode", "tokens", kuberay_schema),
        ("rayjob.yaml", "spec/rayClusterSpec/autoscalerOptions/version", "v3", kuberay_schema),
        ("rayjob.yaml", "spec/rayClusterSpec/rayVersion", "2.59.0", kuberay_ray),
        ("raycluster.yaml", "spec/authOptions", None, None),
        ("raycluster.yaml", "spec/headGroupSpec/rayStartParams/dashboard-host", "0.0.0.0", kuberay_doors),
        ("raycluster.yaml", "spec/headGroupSpec/serviceType", "LoadBalancer", kuberay_doors),
        ("raycluster.yaml", "spec/workerGroupSpecs/0/template/spec/terminationGracePeriodSeconds", 30, kuberay_grace),
        ("raycluster.yaml", "spec/workerGroupSpecs/1/" + CONTAINER + "/lifecycle", None, None),
        ("rayjob.yaml", "spec/runtimeEnvYAML", "env_vars: {RAY_JOB_STOP_WAIT_TIME_S: '3'}", kuberay_grace),
        ("rayjob.yaml", "spec/rayClusterSpec/workerGroupSpecs/0/" + CONTAINER + "/volumeMounts", [], kuberay_storage),
        ("raycluster.yaml", "spec/workerGroupSpecs/1/replicas", 9, kuberay_scaling),
        ("raycluster.yaml", "spec/auth_token", "0123456789abcdef", no_secrets),
    ],
)
def test_a_planted_mistake_is_seen(name: str, path: str, value: Any, check: Callable[[Any], None] | None) -> None:
    tree = planted(read(name), path, value)
    with pytest.raises((AssertionError, jsonschema.ValidationError, KeyError, ValueError)):
        for one in CHECKS[name] if check is None else (check,):
            one(tree)


def test_the_job_s_cluster_is_the_cluster_but_for_the_dashboard() -> None:
    alone, of_job = read("raycluster.yaml")["spec"], read("rayjob.yaml")["spec"]["rayClusterSpec"]
    of_job["headGroupSpec"]["rayStartParams"]["dashboard-host"] = "127.0.0.1"
    assert of_job == alone


def test_the_ray_job_trains_a_config_that_ships_and_goes_on_after_a_failure() -> None:
    spec = read("rayjob.yaml")["spec"]
    words = spec["entrypoint"].split()
    assert words[:5] == ["exec", "python", "-m", "bolt_ray.cli", "train"]
    config = load_config(ROOT / words[5], words[6:])
    assert config.resume == "if_any" and spec["backoffLimit"] >= 1
    assert yaml.safe_load(spec["runtimeEnvYAML"])["working_dir"] == "/opt/bolt-ray"


@pytest.mark.parametrize("name", KUBERAY)
def test_what_ends_a_pod_ends_itself_not(name: str) -> None:
    """``pkill -f`` looks at whole command lines, its own shell's among them."""
    for _, _, container in pods(read(name)):
        command = container["lifecycle"]["preStop"]["exec"]["command"][-1]
        for pattern in re.findall(r"-f '([^']+)'", command):
            assert not re.search(pattern, command)
    (head,) = (container for role, _, container in pods(read(name)) if role == "head")
    (pattern, _) = re.findall(r"-f '([^']+)'", head["lifecycle"]["preStop"]["exec"]["command"][-1])
    for driver in ("python -m bolt_ray.cli train config.yaml", "python jobs/train.py config.yaml"):
        assert re.search(pattern, driver)


def test_configs_for_clusters_ask_for_gpus_that_have_yet_to_come() -> None:
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        cluster: ClusterSettings = load_config(path).cluster
        assert not cluster.wait_for_nodes or cluster.use_gpu == "yes", path.name


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_images_are_made_from_the_locks_by_the_project_s_own_script(name: str) -> None:
    text = (CLUSTER / f"Dockerfile.{name}").read_text(encoding="utf-8")
    assert f"RUN scripts/setup.sh {name} /opt/venv" in text
    assert all(program in text for program in ("procps", "rsync", "wget"))  # pkill, the launcher, KubeRay's probes


def test_no_hidden_file_and_no_key_goes_into_an_image() -> None:
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".*", "**/.*", "**/*.pem", "**/*.key", "runs"} <= set(left_out)
    needed = ("requirements", "scripts", "bolt_ray", "pyproject.toml", "README.md", "configs", "jobs")
    assert not {line.strip("/") for line in left_out} & set(needed)


def test_the_slurm_script_is_a_script_and_hides_its_token() -> None:
    file = CLUSTER / "slurm.sh"
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True).returncode == 0
    text = file.read_text(encoding="utf-8")
    assert "umask 077" in text and "--dashboard-host=127.0.0.1" in text and "RAY_AUTH_MODE=token" in text
    assert "resume=if_any" in text
    assert subprocess.run(["bash", str(file)], capture_output=True, text=True).returncode == 2
