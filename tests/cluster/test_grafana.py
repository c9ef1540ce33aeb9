"""The dashboard for Grafana names only metrics that exist; that Prometheus answers it: the end-to-end tests."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess

import pytest
import yaml
from support.prometheus import CLUSTER, DASHBOARD, expressions, names_in

from bolt_ray.actors.engine_series import COUNTERS, GAUGES
from bolt_ray.training.telemetry.ray_metrics import MIRRORED, gauge_name

OURS = {f"ray_{gauge_name(metric)}" for metric in MIRRORED}


def test_names_of_gauges_are_prometheus_names() -> None:
    assert gauge_name("eval/pass@1") == "bolt_ray_eval_pass_1"
    assert [name for name in OURS if not re.fullmatch(r"[a-z_][A-Za-z0-9_]*", name)] == []
    assert len(OURS) == len(MIRRORED)


def test_what_is_mirrored_is_a_metric() -> None:
    page = (CLUSTER.parent / "docs" / "metrics.md").read_text(encoding="utf-8")  # made from all modules
    declared = [
        re.sub(r"\\{\w+\\}", r"\\w+", re.escape(name)) for name in re.findall(r"^\| `(\S+)`", page, re.MULTILINE)
    ]
    known = re.compile("|".join(declared))
    assert [name for name in MIRRORED if name != "step" and not known.fullmatch(name)] == []


def test_the_dashboard_shows_every_gauge_and_names_no_other() -> None:
    asked = set().union(*(names_in(expression) for expression in expressions()))
    assert {name for name in asked if not name.startswith("ray_vllm_")} == OURS


def test_series_of_the_engines_are_those_that_generators_show() -> None:
    shown = {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in COUNTERS}
    asked = set().union(*(names_in(expression) for expression in expressions()))
    assert {name for name in asked if name.startswith("ray_vllm_")} <= shown


def test_panels_do_not_overlap_and_each_has_its_own_id() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in panels
        for dx, dy in itertools.product(range(panel["gridPos"]["w"]), range(panel["gridPos"]["h"]))
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_the_runs_to_choose_from_are_those_of_a_gauge() -> None:
    (variable,) = [item for item in DASHBOARD["templating"]["list"] if item["name"] == "run"]
    assert names_in(variable["query"]["query"]) <= OURS
    assert all('run=~".+"' in expression for expression in expressions() if "ray_bolt_ray_" in expression)


def test_prometheus_takes_its_settings() -> None:
    file = CLUSTER / "prometheus" / "prometheus.yml"
    (job,) = yaml.safe_load(file.read_text(encoding="utf-8"))["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian's package prometheus) is not installed")
    found = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
