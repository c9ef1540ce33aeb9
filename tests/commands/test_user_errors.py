"""What a user gets wrong: one message that names the place and the remedy, exit code 2, no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bolt_ray.cli import main


@pytest.fixture
def bolt_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process; returns the exit code and everything printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bolt-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return int(leave.value.code or 0), printed.out + printed.err

    return run


Run = Callable[..., tuple[int, str]]
Write = Callable[..., Path]


def test_missing_config(bolt_ray: Run, tmp_path: Path) -> None:
    code, text = bolt_ray("train", tmp_path / "nothing.yaml")
    assert code == 2
    assert "nothing.yaml: there is no such config file" in text


def test_unknown_key_names_the_nearest(bolt_ray: Run, write_config: Write) -> None:
    code, text = bolt_ray("train", write_config(), "train.max_step=3")
    assert code == 2
    assert "train.max_step: there is no such setting; did you mean 'max_steps'?" in text


def test_wrong_type(bolt_ray: Run, write_config: Write) -> None:
    code, text = bolt_ray("train", write_config(), "train.max_steps=many")
    assert code == 2
    assert "train.max_steps: input should be a valid integer" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rollout.group_size=3"], "rollouts_per_step 16 is not a multiple of rollout.group_size 3; use 15 or 18"),
        (["kl.controller=ziegler"], "kl.coef, which is 0"),
        (["kl.coef=0.1", "kl.adaptation=[clip, hinge]"], "clip and hinge"),
        (["loss.type=gpso"], "loss.type: "),
        (["loss.type=gspo", "loss.aggregation=token_mean"], "leave it out or set it to 'sequence_mean'"),
        (["loss.clip_low=0.5", "loss.clip_high=0.1"], "clip_low"),
        (
            ["train.offload_parameters=true", "train.zero_stage=2"],
            "train.offload_parameters: needs zero_stage 3, not 2",
        ),
        (
            ["model.attention=flash_attention_2"],
            "flash_attention_2 needs the package flash-attn; use model.attention sdpa",
        ),
        (["train.offload_optimizer=true"], "train.offload_optimizer: needs zero_stage 1, 2 or 3, not 0"),
    ],
)
def test_impossible_combinations_are_refused_before_any_process_starts(
    bolt_ray: Run, write_config: Write, tmp_path: Path, settings: list[str], message: str
) -> None:
    code, text = bolt_ray("train", write_config(), *settings)
    assert code == 2
    assert message in text
    assert not (tmp_path / "run").exists()


def test_missing_dataset_file(bolt_ray: Run, write_config: Write, tmp_path: Path) -> None:
    code, text = bolt_ray("train", write_config(datasets=[{"name": str(tmp_path / "prompt.jsonl")}]))
    assert code == 2
    assert "prompt.jsonl" in text and "did you mean" in text and "prompts.jsonl" in text
    assert not (tmp_path / "run").exists()


def test_missing_model_directory(bolt_ray: Run, write_config: Write, tmp_path: Path) -> None:
    code, text = bolt_ray("train", write_config(), f"model.name_or_path={tmp_path / 'modle'}")
    assert code == 2
    assert "model.name_or_path: there is no model directory" in text


def test_a_directory_that_is_no_model(bolt_ray: Run, write_config: Write, tmp_path: Path) -> None:
    code, text = bolt_ray("train", write_config(), f"model.name_or_path={tmp_path}")
    assert code == 2
    assert "config.json is missing" in text


def test_unwritable_run_directory(bolt_ray: Run, write_config: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, text = bolt_ray("train", write_config(), f"run_dir={tmp_path / 'file' / 'run'}")
    assert code == 2
    assert "the run directory cannot be written" in text and "name another run_dir" in text


def test_resume_without_a_checkpoint(bolt_ray: Run, write_config: Write) -> None:
    code, text = bolt_ray("train", write_config(), "resume=auto")
    assert code == 2
    assert "resume=auto: no checkpoint under" in text


def test_a_completion_that_cannot_fit(bolt_ray: Run, write_config: Write) -> None:
    code, text = bolt_ray("train", write_config(), "sampling.max_new_tokens=64")
    assert code == 2
    assert "leaves no room for a prompt in a context of 64 tokens" in text


MESSAGES = {"prompt": [{"role": "user", "content": "1+1"}], "answer": "2"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sampling.stop_token_ids=['<|im_end|>']"], "sampling.stop_token_ids: '<|im_end|>' is not one token of"),
        (["sampling.stop=['<eos>']"], "<eos> is a special token"),
        (["model.chat_template=mine.jinja"], "mine.jinja, line 2: "),
        (["model.chat_template=none.jinja"], "model.chat_template: "),
        (
            ["model.chat_template_kwargs={enable_thinking: false}"],
            "chat_template_kwargs.enable_thinking: the chat",
        ),
    ],
)
@pytest.mark.parametrize("command", ["validate", "train"])
def test_what_the_tokenizer_cannot_do_is_said_before_any_process_starts(
    bolt_ray: Run, write_config: Write, tmp_path: Path, command: str, settings: list[str], message: str
) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }}\n{% if %}", encoding="utf-8")
    code, text = bolt_ray(command, write_config(), *settings)
    assert code == 2
    assert message in text


@pytest.mark.parametrize(
    ("rows", "has_template", "code", "message"),
    [
        (
            [{"prompt": "1+1=", "answer": "2"}],
            True,
            0,
            "Warning: the prompts of prompts are plain text and the model",
        ),
        ([{"prompt": "1+1=", "answer": "2"}], False, 0, ""),
        ([MESSAGES], True, 0, ""),
        ([MESSAGES], False, 2, "the prompts are chat messages and the tokenizer of"),
    ],
)
def test_validate_says_what_looks_wrong_with_the_prompts(
    bolt_ray: Run,
    write_config: Write,
    tied_model: Path,
    tmp_path: Path,
    rows: list[dict[str, object]],
    has_template: bool,
    code: int,
    message: str,
) -> None:
    model = shutil.copytree(tied_model, tmp_path / "model")
    if not has_template:
        (model / "chat_template.jinja").unlink()
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found, text = bolt_ray("validate", write_config(), f"model.name_or_path={model}")
    assert found == code
    assert message in text
    assert message or "Warning" not in text


@pytest.mark.parametrize("command", ["validate", "train"])
def test_a_model_without_a_tokenizer(
    bolt_ray: Run, write_config: Write, tied_model: Path, tmp_path: Path, command: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((tied_model / "config.json").read_bytes())
    code, text = bolt_ray(command, write_config(), f"model.name_or_path={model}")
    assert code == 2
    assert f"cannot load the tokenizer of {model}" in text


@pytest.mark.parametrize(
    ("package", "settings", "message"),
    [
        ("vllm", [], 'vLLM is not installed; install it with pip install "bolt-ray[cpu]"'),
        (
            "deepspeed",
            ["train.zero_stage=3", "train.offload_parameters=true"],
            "DeepSpeed is not installed, and train.zero_stage 3, train.offload_parameters needs it",
        ),
    ],
)
@pytest.mark.slow
def test_a_package_not_installed(write_config: Write, package: str, settings: list[str], message: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from bolt_ray.cli import main\n"
        f"sys.argv = ['bolt-ray', 'train', {str(write_config())!r}, *{settings!r}]\n"
        "main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", [["trian"], ["train"], ["train", "c.yaml", "--fast"], ["validate"]])
def test_usage_errors(bolt_ray: Run, command: list[str]) -> None:
    code, text = bolt_ray(*command)
    assert code == 2
    assert text.strip()


def test_validate_prints_the_step_and_the_processes(bolt_ray: Run, write_config: Write, tmp_path: Path) -> None:
    code, text = bolt_ray("validate", write_config(), "rollout.group_size=4", "rollout.max_staleness=1")
    assert code == 0
    assert "4 prompts × 4 completions = 16 completions, generated by a policy at most 1 version(s) older" in text
    assert "baseline shards" in text and "learner ranks (DeepSpeed)" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_a_bad_dataset_is_named_by_file_and_line(
    ray_cluster: None, bolt_ray: Run, write_config: Write, tmp_path: Path
) -> None:
    """Other bad rows, empty datasets and prompts that are too long are in tests/data."""
    config = write_config()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1+1="}\n{"prompt": \n', encoding="utf-8")
    code, text = bolt_ray("train", config, "data.heldout_size=0")
    assert code == 2
    assert "prompts.jsonl, line 2: not valid JSON" in " ".join(text.split())


@pytest.mark.parametrize(
    ("job", "options"), [("train", []), ("evaluate", []), ("precompute_baseline", ["--output", "baseline.json"])]
)
@pytest.mark.slow
def test_jobs_are_the_commands(tmp_path: Path, job: str, options: list[str]) -> None:
    script = Path(__file__).parents[2] / "jobs" / f"{job}.py"
    result = subprocess.run(
        [sys.executable, str(script), "missing.yaml", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert "missing.yaml" in result.stderr and "Traceback" not in result.stderr
