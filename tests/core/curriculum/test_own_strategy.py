"""A strategy of the user's own, ``curriculum.strategy: file.py:Class``: found, used, and refused when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bolt_ray.core.curriculum import Curriculum, CurriculumSettings, PromptColumns, ScoredDraws
from bolt_ray.core.errors import ConfigError

STRATEGIES = '''
import numpy as np
from bolt_ray.core.curriculum import MemorylessStrategy

class Hardest(MemorylessStrategy):
    """w = 1 - v + epsilon, halved for every visit."""

    def __init__(self, settings):
        self.epsilon = settings.epsilon

    def weights(self, columns, *, step, total_steps, rng):
        return (1.0 - columns.v_hat + self.epsilon) * 0.5 ** columns.visits

class Learning(MemorylessStrategy):
    """Keeps how much it has seen."""

    def __init__(self, settings):
        self.seen = 0.0

    def weights(self, columns, *, step, total_steps, rng):
        return np.full(columns.num_prompts, 1.0 + self.seen)

    def observe(self, batch):
        self.seen += float(batch.abs_advantages.sum())

    def metrics(self):
        return {"curriculum/seen": self.seen}

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = float(state["seen"])

class Zero(MemorylessStrategy):
    def __init__(self, settings):
        pass

    def weights(self, columns, *, step, total_steps, rng):
        return columns.v_hat

class Short(Zero):
    def weights(self, columns, *, step, total_steps, rng):
        return np.ones(1)
'''

COLUMNS = PromptColumns(
    v_hat=np.array([0.0, 0.25, 1.0], dtype=np.float32),
    n_eff=np.full(3, 8, dtype=np.float32),
    visits=np.array([0, 1, 2], dtype=np.int32),
    solved_streak=np.zeros(3, dtype=np.int32),
    last_version=np.zeros(3, dtype=np.int32),
)


def file_in(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "my_strategies.py"
    path.write_text(STRATEGIES, encoding="utf-8")
    return path


def curriculum(path: Path, name: str, **options: float) -> Curriculum:
    return Curriculum(CurriculumSettings(strategy=f"{path}:{name}", **options), seed=0)


def test_a_users_class_weighs_the_prompts(tmp_path: Path) -> None:
    made = curriculum(file_in(tmp_path), "Hardest", epsilon=0.25)
    weights = made.weights(COLUMNS, step=0, total_steps=10, window=0)
    assert weights.tolist() == [1.25, 0.5, 0.0625]
    assert made.metrics()["curriculum/mean_weight"] == pytest.approx(1.8125 / 3)


def test_modifiers_apply_to_it_too(tmp_path: Path) -> None:
    made = curriculum(file_in(tmp_path), "Hardest", epsilon=0.25, exploration_floor=1.0)
    np.testing.assert_allclose(made.weights(COLUMNS, step=0, total_steps=10, window=0), np.full(3, 1.8125 / 3))


def test_its_state_is_resumed_wherever_its_file_lies_then(tmp_path: Path) -> None:
    first = curriculum(file_in(tmp_path / "a"), "Learning")
    first.observe(
        ScoredDraws(
            rows=np.array([0, 2]),
            rewards=np.zeros(2),
            abs_advantages=np.array([0.5, 1.0]),
            trained=np.ones(2, dtype=np.bool_),
        )
    )
    state = json.loads(json.dumps(first.state_dict()))
    resumed = curriculum(file_in(tmp_path / "b"), "Learning")
    resumed.load_state_dict(state)
    assert resumed.weights(COLUMNS, step=0, total_steps=10, window=0).tolist() == [2.5, 2.5, 2.5]
    assert resumed.metrics()["curriculum/seen"] == 1.5
    with pytest.raises(ValueError, match=r"is of strategy 'my_strategies\.py:Learning', the settings say"):
        curriculum(file_in(tmp_path / "b"), "Hardest").load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Zero", r"Zero gave prompt 0 the weight 0 \(1 such prompts\)"),
        ("Short", r"Short gave weights of shape \(1,\) for 3 prompts"),
    ],
)
def test_impossible_weights_are_the_users_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        curriculum(file_in(tmp_path), name).weights(COLUMNS, step=0, total_steps=10, window=0)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no 'Harder'; it has: Hardest, Learning, Short, Zero"):
        curriculum(file_in(tmp_path), "Harder")
