"""``inspect --samples``: the right samples, in order, readable in any terminal, and harmless to it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from support.samples import rollout, trained_step

from bolt_ray.cli import main
from bolt_ray.commands.inspect.sample_text import printable
from bolt_ray.commands.inspect.samples import SampleQuery, SampleReader, show_samples
from bolt_ray.core.errors import CheckpointError, ConfigError
from bolt_ray.core.records import Prompt
from bolt_ray.training.settings import SamplesSettings
from bolt_ray.training.telemetry.sample_files import SampleFiles


def write_run(root: Path) -> Path:
    """Two steps: of the i-th completion the reward is i/4, the length i + 1, and the advantage i."""
    written = SampleFiles(root / "samples", SamplesSettings(all=True), reward_range=(0.0, 1.0), first_step=0)
    root.mkdir()
    for step in (1, 2):
        items = [
            rollout(
                i,
                reward=i / 4,
                tokens=i + 1,
                truncated=i == 4,
                text=f"text {step}.{i}",
                v_hat=(i * 2 % 5) / 5,
                prompt=Prompt(row=i, key=f"key-{i}", prompt=f"{i}+0=", answer=f"={i}", source=f"set-{i % 2}"),
            )
            for i in range(5)
        ]
        written.of_step(trained_step([*items, rollout(9, reward=None, text=f"text {step}.9")], step=step))
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("samples") / "run")


def found(run: Path, **options: Any) -> list[str]:
    rows, _ = SampleReader(run, SampleQuery(**{"limit": 99} | options)).found()
    return [row["completion"].removeprefix("text ") for row in rows]


def shown(run: Path, width: int = 80, **options: Any) -> str:
    text = io.StringIO()
    show_samples(run, SampleQuery(**options), console=Console(file=text, width=width))
    return text.getvalue()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["2.0", "2.1", "2.2", "2.3", "2.4", "2.9", "1.0", "1.1", "1.2", "1.3", "1.4", "1.9"]),
        ({"limit": 2}, ["2.0", "2.1"]),
        ({"step": "1"}, ["1.0", "1.1", "1.2", "1.3", "1.4", "1.9"]),
        ({"step": "2-", "source": "set-1"}, ["2.1", "2.3"]),
        ({"step": "1-1", "min_reward": 0.5, "max_reward": 0.75}, ["1.2", "1.3"]),
        ({"unscored": True}, ["2.9", "1.9"]),
        ({"truncated": True}, ["2.4", "1.4"]),
        ({"why": "unscored", "kind": "train"}, ["2.9", "1.9"]),
        ({"why": "best"}, ["2.3", "2.4", "1.3", "1.4"]),
        ({"grep": "2.3"}, ["2.3"]),
        ({"grep": "=3"}, ["2.3", "1.3"]),
        ({"grep": "3+0"}, ["2.3", "1.3"]),
        ({"step": "2", "sort": "reward"}, ["2.4", "2.3", "2.2", "2.1", "2.0", "2.9"]),
        ({"step": "2", "sort": "reward", "ascending": True}, ["2.0", "2.1", "2.2", "2.3", "2.4", "2.9"]),
        ({"step": "2", "sort": "v_hat", "limit": 2}, ["2.2", "2.4"]),
        ({"step": "2", "sort": "surprise", "limit": 2}, ["2.3", "2.4"]),
        ({"step": "2", "sort": "length", "limit": 2}, ["2.4", "2.3"]),
        ({"step": "2", "sort": "advantage", "limit": 2}, ["2.4", "2.3"]),
        ({"sort": "gap", "limit": 1}, ["2.0"]),
    ],
    ids=str,
)
def test_samples_are_filtered_and_sorted(run: Path, options: dict[str, Any], expected: list[str]) -> None:
    assert found(run, **options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": "newest"}, "--step is 'newest'; write a step as 120, or several as 100-200 or 100-"),
        ({"kind": "evaluation"}, "--kind is 'evaluation'; choose one of train, eval"),
        ({"why": "lengthy"}, "--why is 'lengthy'; choose one of best, worst, longest"),
        ({"sort": "rewards"}, "--sort is 'rewards'; choose one of reward, .*; did you mean 'reward'?"),
        ({"ascending": True}, "--ascending needs --sort"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SampleQuery(**options)


def test_what_is_shown_is_readable_at_80_columns(run: Path) -> None:
    text = shown(run, step="2", sort="reward", limit=2)
    assert max(map(cell_len, text.splitlines())) <= 80
    block = [line.rstrip() for line in text.splitlines()[:7]]
    assert block[0].startswith("step 2 · train · best, longest, truncated, surprise ─")
    assert block[1] == "reward 1.000 · advantage +4.000 · 5 tokens, truncated"
    assert block[2] == "v̂ 0.600 · |r̃ − v̂| 0.400 · visits 3 · draw weight 1.50 · mean log p -0.500 · gap"
    assert block[3] == "0.12 nats"
    assert block[4] == "prompt key-4 · set-0 · sample 0 · policy version 6 to 7"
    assert block[5] == "own 1.000"
    assert block[6].split() == ["prompt", "4+0="]
    assert "2 samples are shown and there are more" in text
    assert "unscored: own: timeout: after 1 s" in shown(run, unscored=True, limit=1)
    assert "None of 12 samples is like that." in shown(run, grep="nowhere")


def test_long_texts_are_shortened_unless_all_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    lines = "\n".join(f"line {number}" for number in range(100))
    rows = [{"completion": lines, "step": 1}, {"completion": "a" * 5000 + "b", "step": 1}]
    write_rows(tmp_path, rows)
    short = shown(tmp_path)
    assert "[… 92 lines …]" in short and "line 50" not in short and "line 99" in short
    assert "[… 4,401 characters …]" in short and "b" in short
    full = shown(tmp_path, full=True)
    assert all(f"line {number}" in full for number in range(100)) and full.count("a") > 5000


def write_rows(run: Path, rows: list[dict[str, Any]], *, step: int = 1) -> None:
    (run / "samples").mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "samples" / f"step-{step:06d}.jsonl").write_text(text, encoding="utf-8")


HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\rb[bold red]c[/]\u202ed\u2028e\x00\x7f\ud800f"


def test_no_text_can_do_anything_to_the_terminal(tmp_path: Path) -> None:
    """Of any field, as another program could have written it too."""
    names = ("completion", "prompt", "answer", "prompt_id", "source", "unscored", "kind", "step", "dropped")
    row: dict[str, Any] = dict.fromkeys(names, HOSTILE) | {
        "why": [HOSTILE],
        "parts": {HOSTILE: 1.0},
        "extras": {"own": {HOSTILE: HOSTILE}},
    }
    write_rows(tmp_path, [row, row | {"prompt": [{"role": HOSTILE, "content": HOSTILE}, HOSTILE]}])
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None)
    show_samples(tmp_path, SampleQuery(full=True), console=console)
    assert not set(text.getvalue()) & set("\x1b\x07\x9b\r\u202e\u2028\x00\x7f\ud800")
    assert "[boldred]c[/]" in "".join(text.getvalue().split())
    assert printable("a\tb\x1b[0m\u202e") == "a   b\\x1b[0m\\u202e"


VALUES = {
    "null": "null",
    "text": '"text"',
    "list": "[1]",
    "object": '{"a": 1}',
    "true": "true",
    "large": "1" + "0" * 400,
    "too large": "1" * 5000,
    "NaN": "NaN",
    "infinite": "Infinity",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_row_of_another_program_is_shown_as_far_as_it_goes(value: str, tmp_path: Path) -> None:
    names = ("step", "why", "reward", "advantage", "v_hat", "parts", "prompt", "completion", "oldest_version", "source")
    (tmp_path / "samples").mkdir()
    line = "{" + ", ".join(f'"{name}": {value}' for name in names) + "}\n"
    (tmp_path / "samples" / "step-000001.jsonl").write_text(line)
    text = shown(tmp_path, sort="reward")
    assert "completion" in text or "1 unreadable lines" in text
    shown(tmp_path, min_reward=0.0, grep="x", why="best", source="s")


def test_torn_files_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = run / "samples" / "step-000002.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    text = shown(run, limit=99)
    assert f"{path}: 1 unreadable lines are left out" in text.replace("\n", "")
    assert "text 2.4" in text and "text 2.9" not in text and "text 1.9" in text


def test_what_is_missing_is_told(tmp_path: Path, run: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such directory"):
        shown(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no samples here; .* samples\.per_step and samples\.eval are 0"):
        shown(tmp_path)
    with pytest.raises(
        CheckpointError, match="no samples of these steps and this kind; there are train from step 1 to 2"
    ):
        shown(run, kind="eval")
    with pytest.raises(CheckpointError, match="no samples of these steps"):
        shown(run, step="7-9")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--samples", "--sort", "reward", "--limit", "1"], 0, "reward 1.000"),
        (["--samples", "--sort", "size"], 2, "--sort is 'size'"),
        (["--samples", "--limit", "0"], 2, "--limit"),
        (["--samples", "--min-reward", "high"], 2, "--min-reward"),
        (["--step", "3"], 2, "--step needs --samples"),
        (["--samples", "--png", "x.png"], 2, "--png does not go with --samples"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_command_line(
    run: Path,
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["bolt-ray", "inspect", str(run), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert said in "".join(capsys.readouterr())
