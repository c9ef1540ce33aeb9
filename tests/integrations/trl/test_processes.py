"""Two processes that train together hold one store, and it is that of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.trl_process import train

ROOT = Path(__file__).parents[3]
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SCRIPT = ROOT / "tests" / "support" / "trl_process.py"


@pytest.mark.slow
def test_two_processes_end_with_the_store_of_one(tmp_path: Path, tiny_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, *LAUNCH, str(SCRIPT), str(tiny_model), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = [json.loads((tmp_path / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    alone = train(tiny_model, tmp_path / "alone", ranks=1)
    assert first["constant"] == second["constant"] == alone["constant"]
    assert len(alone["constant"]) > 8
    assert first["advantages"] == second["advantages"]
    # Each trains on the advantages of its own completions, the first half and the second.
    last = first["advantages"][-16:]
    assert [first["own"], second["own"]] == [sorted(last[:8]), sorted(last[8:])]
    assert first["own"] != second["own"]
    # With the policy's drift: the same number on both, and both stores alike.
    assert first["drifting"] == second["drifting"]
    assert first["drift"] == second["drift"] > 0.0
    assert (tmp_path / "constant" / "checkpoint-3" / "bolt_ray_baseline.npz").is_file()
