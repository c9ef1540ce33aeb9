"""The starter templates: they load, their data parses and fits the embedded model, nothing is overwritten."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.rewards import make_reward

from bolt_ray.commands.init import TEMPLATES, write_starter
from bolt_ray.config.loading import load_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.data.ingest.normalize import NormalRow, normalize_row, row_rules
from bolt_ray.rewards import RewardInput
from bolt_ray.rewards.registry import build_reward
from bolt_ray.rewards.settings import definite_rewards
from bolt_ray.tasks.tiny.tokenizer import UNKNOWN, build_tokenizer


def silent() -> Console:
    return Console(file=io.StringIO())


def starter(directory: Path, template: str) -> tuple[RunConfig, list[NormalRow]]:
    """A template's config as written, and its rows as prompts."""
    write_starter(directory, template=template, console=silent())
    config = load_config(directory / "config.yaml")
    rules = row_rules(config.datasets[0], preset=None, max_prompt_chars=1000)
    lines = (directory / config.datasets[0].name).read_text().splitlines()
    rows = [normalize_row(json.loads(line), rules) for line in lines]
    return config, [row for row in rows if isinstance(row, NormalRow)]


def completion(row: NormalRow, text: str) -> RewardInput:
    return RewardInput(prompt=row.prompt, completion=text, answer=row.answer, metadata=json.loads(row.metadata))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_trains_as_it_is(tmp_path: Path, template: str) -> None:
    config, rows = starter(tmp_path / "new" / template, template)
    assert config.model.name_or_path == "arithmetic"
    assert config.name == template
    assert 16 <= len(rows) <= 32
    assert len({row.key for row in rows}) == len(rows)
    assert 0 < config.data.heldout_size < len(rows) - 8
    assert config.train.max_steps * config.rollout.rollouts_per_step <= 1000
    assert all(line.isascii() for line in (tmp_path / "new" / template / "config.yaml").read_text().splitlines())


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_embedded_model_can_read_the_prompts(tmp_path: Path, template: str) -> None:
    config, rows = starter(tmp_path, template)
    tokenizer = build_tokenizer(max_length=config.arithmetic.context_length)
    for row in rows:
        assert isinstance(row.prompt, str)
        ids = tokenizer(row.prompt).input_ids
        assert tokenizer.unk_token_id not in ids, row.prompt
        assert 0 < len(ids) + config.sampling.max_new_tokens <= config.arithmetic.context_length


def test_unknown_characters_become_one_token_each() -> None:
    tokenizer = build_tokenizer(max_length=512)
    assert tokenizer.convert_ids_to_tokens(tokenizer("é∑😀1").input_ids) == [UNKNOWN, UNKNOWN, UNKNOWN, "1"]


@pytest.mark.parametrize("template", ["math", "format", "own"])
def test_the_answers_are_those_of_the_prompts(tmp_path: Path, template: str) -> None:
    _, rows = starter(tmp_path, template)
    reward = make_reward("math")
    for row in rows:
        assert isinstance(row.prompt, str)
        assert re.fullmatch(r"[\d+\-*/()]+=", row.prompt)
        value = compute(ast.parse(row.prompt.removesuffix("="), mode="eval").body)
        numerator, _, denominator = row.answer.partition("/")
        assert value == pytest.approx(int(numerator) / int(denominator or 1)), row
        right = completion(row, f"{row.prompt}{row.answer}<answer>{row.answer}</answer>")
        wrong = completion(row, f"{row.prompt}<answer>{row.answer}1</answer>")
        assert reward.score([right, wrong]) == [1.0, 0.0], row


def compute(node: ast.expr) -> float:
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    assert isinstance(node, ast.BinOp), node
    left, right = compute(node.left), compute(node.right)
    return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right, ast.Div: left / (right or 1)}[
        type(node.op)
    ]


def test_every_task_of_the_code_template_is_tested_by_name(tmp_path: Path) -> None:
    _, rows = starter(tmp_path, "code")
    for row in rows:
        assert isinstance(row.prompt, str)
        named = re.search(r"function (\w+)\(", row.prompt)
        assert named is not None
        tests = json.loads(row.metadata)["tests"]
        assert tests
        for test in tests:
            calls = [node.func for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
            called = {function.id for function in calls if isinstance(function, ast.Name)}
            assert called == {named.group(1)}


def test_programs_of_the_code_template_are_scored(tmp_path: Path) -> None:
    """With the reward as its config has it, in the sandbox."""
    config, rows = starter(tmp_path, "code")
    (settings,) = definite_rewards(config.rewards, timeout_s=30.0, memory_mb=1024)
    adds = next(row for row in rows if "add(a, b)" in str(row.prompt))
    right, wrong = (completion(adds, f"```python\ndef add(a, b):\n    return a {sign} b\n```") for sign in ("+", "-"))
    assert list(build_reward(settings).score([right, wrong])) == [1.0, 0.0]


def test_the_format_template_gives_the_model_something_to_climb(tmp_path: Path) -> None:
    config, rows = starter(tmp_path, "format")
    parts = [make_reward("format", structure="think_answer", partial=True), make_reward("math")]
    item = completion(rows[0], f"5<answer>{rows[0].answer}</answer>")
    values = [part.score([item])[0] for part in parts]
    assert values == [0.25, 1.0]
    reached = sum(reward.weight * value for reward, value in zip(config.rewards, values, strict=True))  # type: ignore[operator]
    assert reached >= config.eval.success_reward > 0.7


def test_the_reward_file_of_a_task_of_ones_own(tmp_path: Path) -> None:
    starter(tmp_path, "own")
    spec = importlib.util.spec_from_file_location("starter_reward", tmp_path / "reward.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def score(text: str, answer: str = "7") -> float | None:
        value: float | None = module.score(RewardInput(prompt="2+5=", completion=text, answer=answer), wrong=0.1)
        return value

    assert (score("2+5=7<answer>7</answer>"), score("it is -7"), score("well"), score("7", answer="")) == (
        1.0,
        0.1,
        0.0,
        None,
    )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"train\.jsonl is there already and is not overwritten"):
        write_starter(tmp_path, template="math", console=silent())
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]
    assert (tmp_path / "train.jsonl").read_text() == "mine"


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--template 'maths' is unknown; did you mean math\? there are: math, code"):
        write_starter(tmp_path, template="maths", console=silent())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the starter files cannot be written"):
        write_starter(tmp_path / "file", template="math", console=silent())


def test_what_to_do_next_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = Console(file=io.StringIO(), record=True, width=200)
    written = write_starter(Path(), template="own", console=said)
    assert sorted(path.name for path in written) == ["config.yaml", "reward.py", "train.jsonl"]
    assert "Next: bolt-ray train config.yaml" in said.export_text()
    write_starter(Path("there"), template="code", console=said)
    assert "Next: cd there && bolt-ray train config.yaml" in said.export_text()
