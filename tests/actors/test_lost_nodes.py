"""Nodes that are drained and lost under scorers and shards, with a real Ray of several nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_scorers_leave_a_draining_node_and_shards_come_back_from_a_lost_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-m", "support.lost_nodes_process", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert json.loads(ended.stdout.splitlines()[-1]) == {
        "shards began on the first node": True,
        "scorers left the first node": True,
        "restarts by draining": 0,
        "scored": [1.0] * 20,
        "shards are on the second node": True,
        "baseline is the same": True,
    }
