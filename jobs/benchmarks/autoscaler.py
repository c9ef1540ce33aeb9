"""A training on a cluster that an autoscaler makes larger: it starts with one generator, and a second joins.

Ray's autoscaler runs here with its fake provider, whose nodes are processes of this machine. It also runs
``ray stop --force``, so everything happens in process, mount and network namespaces of its own (``unshare`` of
util-linux, ``ip`` of iproute2), where it sees no other Ray.

    python jobs/benchmarks/autoscaler.py --out runs/autoscaler
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from chaos_scenarios import Scenario, tiny_model, write_config

from bolt_ray.training.telemetry.record import read_metrics

INSIDE = "BOLT_RAY_INSIDE_NAMESPACES"
NODE_CPUS = 3
LONGEST_S = 420.0


def cluster_class() -> Any:
    """Ray's own class, whose file of settings is not in its wheel."""
    from ray.cluster_utils import AutoscalingCluster

    class Autoscaling(AutoscalingCluster):  # type: ignore[misc]
        def _generate_config(self, head_resources: Any, worker_node_types: Any, **rest: Any) -> dict[str, Any]:
            head = {"ray.head.default": {"resources": head_resources, "node_config": {}, "max_workers": 0}}
            commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
            return {
                "cluster_name": "fake_multinode",
                "max_workers": 8,
                "provider": {
                    "type": "fake_multinode",
                    "disable_node_updaters": True,
                    "disable_launch_config_check": True,
                },
                "auth": {"ssh_user": "nobody"},
                "available_node_types": worker_node_types | head,
                "head_node_type": "ray.head.default",
                "upscaling_speed": 1.0,
                "idle_timeout_minutes": 30,
                "docker": {},
                "file_mounts": {},
                "cluster_synced_files": [],
                "file_mounts_sync_continuously": False,
                "rsync_exclude": [],
                "rsync_filter": [],
                **{f"{name}_commands": [] for name in commands},
            }

    return Autoscaling


def grows(out: Path) -> int:
    """Prints how many generators each step had, and its throughput; 0 if a second one came."""
    directory = out / "training"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    nodes = {"cpu": {"resources": {"CPU": NODE_CPUS}, "node_config": {}, "min_workers": 0, "max_workers": 1}}
    # The head has room for the learner, the small ones and one generator.
    cluster = cluster_class()(head_resources={"CPU": NODE_CPUS + 2}, worker_node_types=nodes)
    cluster.start()
    write_config(
        directory,
        Scenario(target="generator", staleness=1, phases=(), steps=1_000_000),
        model=tiny_model(out),
        address="auto",
    )
    path = directory / "config.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["cluster"] |= {"wait_for_nodes": True, "use_gpu": "no", "start_after_s": 1, "cpus_per_generator": NODE_CPUS}
    tree["eval"] |= {"every_steps": 0, "at_start": False}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    started = time.monotonic()
    with (directory / "output.txt").open("w", encoding="utf-8") as output:
        command = [sys.executable, "-m", "bolt_ray.cli", "train", str(path)]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            seen = 0
            while time.monotonic() - started < LONGEST_S and process.poll() is None:
                time.sleep(1.0)
                file = directory / "run" / "metrics.jsonl"
                records = [record for record in read_metrics(file) if "reward/mean" in record] if file.exists() else []
                for record in records[seen:]:
                    live, rate = record["cluster/generators_live"], record["throughput/tokens_per_second"]
                    at = f"{time.monotonic() - started:5.0f} s  step {record['step']:3}"
                    print(f"{at}  {live:g} generators  {rate:.0f} tokens/s", flush=True)
                seen = len(records)
                counts = [int(record["cluster/generators_live"]) for record in records]
                if counts and counts[0] == 1 and counts[-5:] == [2] * 5:
                    print("started with one generator, and a second one joined", flush=True)
                    return 0
            print(f"no second generator joined; see {output.name}", flush=True)
            return 1
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
            cluster.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where the training is kept")
    out = parser.parse_args().out.absolute()
    if INSIDE not in os.environ:
        # A Ray directory of its own too: sessions are found there.
        script = 'ip link set lo up && mount -t tmpfs none /dev/shm && exec "$@"'
        unshare = ["unshare", "-pf", "--mount-proc", "-n", "-m", "sh", "-c", script, "sh"]
        ray_files = tempfile.mkdtemp(prefix="ray-")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {INSIDE: "1", "RAY_TMPDIR": ray_files, "PATH": path}
        try:
            return subprocess.run([*unshare, sys.executable, *sys.argv], env=environment, check=False).returncode
        finally:
            shutil.rmtree(ray_files, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    return grows(out)


if __name__ == "__main__":
    sys.exit(main())
