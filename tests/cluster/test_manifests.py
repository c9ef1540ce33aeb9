"""The cluster files: valid by Ray's own launcher schema, and consistent with this project."""

from __future__ import annotations

from pathlib import Path

import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"


def test_the_launcher_file_is_valid_by_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((CLUSTER / "aws.yaml").read_text())))


def test_the_ray_job_runs_a_config_that_ships_on_the_ray_that_is_pinned() -> None:
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    config = job["spec"]["entrypoint"].split()[-1]
    assert (CLUSTER.parent / config).is_file()
    pinned = (CLUSTER.parent / "requirements" / "base.in").read_text()
    assert f"ray[data,default,train]=={job['spec']['rayClusterSpec']['rayVersion']}" in pinned
