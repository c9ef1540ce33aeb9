"""One run over the data of three other libraries, unchanged: verl's parquet, TRL's messages, OpenRLHF's JSONL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from support.training_runs import check_preset, steps_of

from bolt_ray import RewardInput, RunConfig, train
from bolt_ray.commands.shared.prompts import open_store
from bolt_ray.data.stream.draw_log import DrawLog
from bolt_ray.training.telemetry.record import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


def verl_parquet(path: Path, problems: list[tuple[str, str, str]], *, split: str) -> str:
    """(data source, question, answer) as the preprocessing scripts of verl write them."""
    rows = [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": question}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {"split": split, "index": index},
        }
        for index, (source, question, answer) in enumerate(problems)
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def trl_jsonl(path: Path, problems: list[tuple[str, str]]) -> str:
    """Conversations whose last message is the answer, one of them in parts."""
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in problems
    ]
    question = rows[0]["messages"][0]
    question["content"] = [
        {"type": "text", "text": part} for part in (question["content"][:1], question["content"][1:])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def openrlhf_jsonl(path: Path, problems: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"input": question, "label": answer}) + "\n" for question, answer in problems))
    return str(path)


def test_three_formats_train_in_one_run(ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path) -> None:
    sums = [(f"{a}+{b}=", str(a + b)) for a in range(8) for b in range(8)]
    verl = [("gsm8k" if number % 2 else "math_dapo", *problem) for number, problem in enumerate(sums[:24])]
    # Every prompt three times over, as in DAPO-Math-17k, and a quarter of TRL's longer than the model may be given.
    long = [("(" * 40 + f"{number}" + ")" * 40, str(number)) for number in range(4)]
    datasets: list[dict[str, Any]] = [
        {
            "name": verl_parquet(tmp_path / "verl.parquet", verl * 3, split="train"),
            "weight": 2,
            "reward": {"gsm8k": "checked", "math_dapo": "digits"},
        },
        {"name": trl_jsonl(tmp_path / "trl.jsonl", sums[24:36] + long), "weight": 1},
        {"name": openrlhf_jsonl(tmp_path / "openrlhf.jsonl", sums[36:48]), "weight": 1, "columns": {"prompt": "input"}},
    ]
    held_out = [("gsm8k", *problem) for problem in sums[48:52]] + [("aime", *problem) for problem in sums[52:56]]
    held_out.append(("aime", *long[0]))

    def checked(item: RewardInput) -> float:
        if item.dataset == "verl":
            assert item.source == "gsm8k" and item.metadata["data_source"] == item.source
            assert item.metadata["reward_model"]["ground_truth"] == item.answer
            assert item.metadata["extra_info"]["split"] == "train"
        question = item.prompt if isinstance(item.prompt, str) else item.prompt[0]["content"]
        left, right = question.rstrip("=").split("+")
        assert int(left) + int(right) == int(item.answer)
        return float(any(digit in item.completion for digit in "01234"))

    tree = yaml.safe_load(
        write_config(
            datasets=datasets,
            data={"heldout_size": 0, "max_prompt_tokens": 32},
            eval={"datasets": [{"name": verl_parquet(tmp_path / "test.parquet", held_out, split="test")}]},
            baseline={"reward_range": [0, 2]},
        ).read_text()
    )
    rewards = [checked, {"type": "regex", "name": "digits", "pattern": "[0-4]"}]
    tree["eval"]["datasets"][0]["reward"] = "digits"
    config = RunConfig(**tree | {"rewards": rewards})
    outcome = train(config)

    run = tmp_path / "run"
    assert outcome.steps == 3
    check_preset(run, config)
    steps = steps_of(run)
    assert all(record["reward/unscored_fraction"] == 0 for record in steps)
    assert {"reward/part/checked", "reward/part/digits"} <= steps[-1].keys()
    assert steps[-1]["data/skipped_too_many_tokens"] > 0
    (store_line,) = [line for line in (run / "run.log").read_text().splitlines() if "trl.jsonl, line" in line]
    assert "the limit is 32" in store_line

    store = open_store(config.datasets, config)
    assert [source.rows for source in store.sources] == [24, 16, 12]
    assert dict(store.sources[0].filtered) == {"duplicate_prompt": 48}
    drawn = DrawLog(run / "draws", store_address=store.address).read(0).rows
    assert np.bincount(store.source_ids()[drawn]).tolist() == [16, 8, 8]  # of 32: two to one to one
    assert set(store.source_names(drawn)) == {"gsm8k", "math_dapo", "trl", "openrlhf"}
    answers = {prompt.source: prompt.answer for prompt in store.read(np.array([24, 40]))}
    assert answers == {"trl": sums[24][1], "openrlhf": sums[36][1]}

    evaluated = [record for record in read_metrics(run / "metrics.jsonl") if "eval/pass@1" in record]
    assert {"eval/gsm8k/pass@1", "eval/aime/pass@1"} <= evaluated[-1].keys()
    assert "1 of 9 held-out problems are left out" in (run / "run.log").read_text()
