"""One training run whose rewards were all written for other libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.training_runs import steps_of

from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

FOREIGN = Path(__file__).parents[2] / "support" / "foreign_rewards"
FUNCTIONS = {
    "trl_style": ["token_count", "digits_format", "accuracy", "sums_only", "products_only", "brevity", "annealed"],
    "verl_style": ["gsm8k", "math_dict", "by_source", "judge"],
    "openrlhf_style": ["label_match", "never_empty", "length_penalty"],
}
OPTIONS = {"gsm8k": {"method": "flexible"}, "length_penalty": {"scale": 0.5}}


def rows() -> list[dict[str, object]]:
    """Conversations with the columns that such functions read; every second one is a product."""
    made: list[dict[str, object]] = []
    for number in range(16):
        a, b, product = number // 2, number % 5, number % 2 == 1
        answer = str(a * b if product else a + b)
        made.append(
            {
                "prompt": [{"role": "user", "content": f"{a}{'*' if product else '+'}{b}"}],
                "answer": answer,
                "task": "product" if product else "sum",
                "data_source": "toy/products" if product else "toy/sums",
                "reward_model": {"style": "rule", "ground_truth": answer},
                "extra_info": {"index": number, "split": "train"},
            }
        )
    return made


def test_functions_written_for_other_libraries_train_a_model(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    rewards = [
        {"type": f"{FOREIGN / file}.py:{name}", "weight": 0.02, "options": OPTIONS.get(name, {})}
        for file, names in FUNCTIONS.items()
        for name in names
    ]
    config = write_config(
        datasets=[{"name": str(data)}],
        data={"heldout_size": 0},
        rewards=rewards,
        scoring={"timeout_s": 120, "num_scorers": 1, "cpus_per_scorer": 0.1},
        curriculum={"strategy": "uniform", "update_freq": 1},  # every row once a step
        eval={"every_steps": 0},
        train={"max_steps": 2},
    )
    assert train(load_config(config)).steps == 2

    printed = capsys.readouterr().out
    assert "reward trl_style.py:accuracy: TRL's shape (completions, **columns)\n" in printed
    assert "reward verl_style.py:judge: verl's shape (data_source, solution_str, ground_truth, extra_info)\n" in printed
    assert "reward openrlhf_style.py:label_match: OpenRLHF's shape (queries, prompts, labels)\n" in printed
    steps = steps_of(tmp_path / "run")
    names = {name for names in FUNCTIONS.values() for name in names}
    for number, step in enumerate(steps):
        part = {name: step[f"reward/part/{name}"] for name in names}
        metric = {key.removeprefix("reward/metric/"): step[key] for key in step if key.startswith("reward/metric/")}
        assert step["reward/unscored_fraction"] == 0.0
        assert part["token_count"] == pytest.approx(step["completions/mean_length"])
        # A sum or a product has one of these parts and goes without the other, which is no 0 in the mean.
        assert (part["sums_only"], part["products_only"]) == (1.0, -1.0)
        assert part["annealed"] == number
        assert part["accuracy"] == pytest.approx(metric["accuracy"])
        assert part["math_dict"] == pytest.approx(2 * metric["acc"] - 1)
        assert part["label_match"] == pytest.approx(metric["scores"])
        assert part["length_penalty"] == pytest.approx(-0.5 * metric["reply_chars"])
        assert part["by_source"] == pytest.approx((0.25 + 0.5) / 2)  # the indices of sums are even
        assert (set(metric), metric["asked"]) == ({"accuracy", "acc", "scores", "reply_chars", "asked"}, 1.0)
        assert all(0.0 <= part[name] <= 1.0 for name in ("digits_format", "gsm8k", "judge", "never_empty"))
        assert 0.0 < part["brevity"] <= 1.0
        applied = {name: value / 2 if name.endswith("s_only") else value for name, value in part.items()}
        assert step["reward/mean"] == pytest.approx(0.02 * sum(applied.values()), abs=1e-6)
    assert any(step["reward/part/judge"] > 0.0 for step in steps)
