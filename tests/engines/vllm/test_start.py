"""Engines that cannot start say why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.settings import engine_settings
from support.vllm_cases import KINDS
from transformers import LlamaConfig, LlamaForCausalLM

from bolt_ray.core.errors import ModelError
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.engine import VLLMEngine
from bolt_ray.tasks.tiny.model import create_model, save_model

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    sampling = SamplingSettings()
    with pytest.raises(ModelError, match=r"is not a Hugging Face model directory: it has no config\.json"):
        VLLMEngine(engine_settings(model_dir=str(tmp_path / "nowhere")), sampling=sampling)
    model, tokenizer = create_model(KINDS["tied"], seed=0)
    save_model(model, tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    with pytest.raises(
        ModelError, match=rf"serve {tmp_path}: Model architectures \['NoSuchModel'\] are not supported for now\.$"
    ):
        VLLMEngine(engine_settings(model_dir=str(tmp_path)), sampling=sampling)


def test_a_model_that_loads_and_cannot_be_served_is_refused_at_the_start(tmp_path: Path) -> None:
    """Its heads have 24 dimensions, for which the CPU has no kernel: only a request shows it."""
    _, tokenizer = create_model(KINDS["tied"], seed=0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
    )
    save_model(LlamaForCausalLM(config), tokenizer, tmp_path)
    reason = (
        rf"vLLM could not serve {tmp_path}: its attention heads have size 24, and vLLM serves 32, 64, .* on a CPU \("
    )
    with pytest.raises(ModelError, match=reason):
        VLLMEngine(engine_settings(model_dir=str(tmp_path)), sampling=SamplingSettings())


def test_without_vllm_the_error_names_the_extra(tmp_path: Path) -> None:
    """In a process whose vllm is a package that cannot be imported."""
    model, tokenizer = create_model(KINDS["tied"], seed=0)
    save_model(model, tokenizer, tmp_path / "model")
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('no vllm here')")
    program = (
        "from support.settings import engine_settings\n"
        "from bolt_ray.engines.settings import SamplingSettings\n"
        "from bolt_ray.engines.vllm.engine import VLLMEngine\n"
        f"VLLMEngine(engine_settings(model_dir={str(tmp_path / 'model')!r}), sampling=SamplingSettings())"
    )
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{tmp_path}:{root}:{root / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EnvironmentProblem: vLLM cannot be imported (no vllm here)" in run.stderr
    assert 'pip install "bolt-ray[cpu]"' in run.stderr
