"""What the runs of test_end_to_end.py do not have: staleness, a curriculum that moves, an adapter, a warm start.

Every preset is checked in a run that shows something else too: spo and baseline in test_end_to_end.py, curriculum in
test_own_data.py, grpo and spo++ here, bolt in the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.training_runs import check_preset, steps_of

from bolt_ray.commands.shared.prompts import open_store
from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config
from bolt_ray.data.stream.draw_log import DrawLog

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

REWARD = '''
def score(item):
    """Right for an even first number, half right for an odd one, whatever the completion says."""
    return 1.0 if int(item.prompt[0]) % 2 == 0 else 0.5
'''


def test_one_version_of_staleness_overlaps_and_is_never_exceeded(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = load_config(
        write_config(algo="grpo", rollout={"max_staleness": 1}, train={"max_steps": 6, "learning_rate": 1e-3})
    )
    train(config)
    steps = steps_of(tmp_path / "run")
    ages = [record["policy/staleness_max"] for record in steps]
    assert ages[0] == 0 and set(ages) == {0, 1}, ages
    assert all(record["policy/sync_gap"] <= 1e-3 for record in steps)
    check_preset(tmp_path / "run", config)


def test_the_curriculum_draws_what_is_uncertain(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(REWARD)
    settings = {"every_steps": 0, "at_start": False, "at_end": False}
    config = write_config(
        algo="curriculum",
        rewards=[{"type": "own.py:score"}],
        rollout={"rollouts_per_step": 32, "group_size": 4},
        baseline={"forgetting": "constant"},
        # Sharper than the preset's strategy, so that a few dozen draws tell: at the first visit of an even number v̂
        # goes from 1/2 to 5/6, and its weight from e^10 to e^7.
        curriculum={"strategy": "cures", "temperature": 0.05},
        train={"max_steps": 16, "learning_rate": 1e-5},
        eval=settings,
    )
    loaded = load_config(config)
    train(loaded)
    store = open_store(loaded.datasets, loaded)
    log = DrawLog(tmp_path / "run" / "draws", store_address=store.address)
    windows = [np.array([int(p.prompt[0]) % 2 for p in store.read(log.read(n).rows)]) for n in range(8)]
    # The rewards do not depend on what is generated, so the draws are a function of the seed: v̂ of an odd number stays
    # 0.5 and that of an even one goes to 1. Uniform draws would give 0.5 ± 0.06.
    assert [len(window) for window in windows] == [16] * 8
    assert np.concatenate(windows[4:]).mean() > 0.7, windows


def test_an_adapter_trains_from_a_warm_start_and_only_it_is_sent(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {f"prompts_{row}": [1.0, 0.0, 0.0, 0.0] for row in range(64)}
    (tmp_path / "baseline.json").write_text(json.dumps({"baselines": values}))
    config = load_config(
        write_config(
            algo="spo++",
            model={"use_peft": True, "lora_r": 8, "lora_alpha": 16},
            baseline={"warm_start": str(tmp_path / "baseline.json")},
        )
    )
    train(config)
    steps = steps_of(tmp_path / "run")
    # Not 0: the generator did answer, and was not replaced.
    assert all(0.0 < record["policy/sync_gap"] <= 1e-3 for record in steps)
    assert all(record["policy/logprob_gap_max"] <= 1e-3 for record in steps)
    assert "generator is replaced" not in (tmp_path / "run" / "run.log").read_text()
    newest = tmp_path / "run" / "adapters" / "version-000003"
    assert {path.suffix for path in newest.iterdir()} >= {".safetensors", ".json"}
    sent = (newest / "adapter_model.safetensors").stat().st_size
    whole = (Path(config.model.name_or_path) / "model.safetensors").stat().st_size
    assert sent < whole / 3
    assert (tmp_path / "run" / "final" / "adapter_config.json").is_file()
    check_preset(tmp_path / "run", config)

    assert "Warm start: 56 of 56 prompts (100.0%)" in " ".join(capsys.readouterr().out.split())
    assert steps[0]["baseline/cold_fraction"] == 0.0
    # (1 + .5) / (4 + 1) for every prompt, and N₀ = 8 outcomes' worth of it. Each of the 16 drawn ones decays to at
    # least 8·.875 = 7 and takes in one outcome: v̂ = (.3·7 + r) / 8 from .2625 to .3875; the other 40 of 56 stay.
    low, high = ((40 * 0.3 + 16 * drawn) / 56 for drawn in (0.2625, 0.3875))
    assert low - 1e-6 <= steps[0]["baseline/avg_v_hat"] <= high + 1e-6
