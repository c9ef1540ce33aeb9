from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.sampling import sample_completions
from bolt_ray.tasks.tiny.settings import TinyModelSettings

pytestmark = pytest.mark.vllm

PROMPTS = ["12+3=", "abs(prev(-3)*next(2))=", "7*8-(4/3)="]


@pytest.mark.parametrize(
    "settings",
    [
        TinyModelSettings(context_length=64),
        TinyModelSettings(context_length=64, tie_embeddings=True),
        TinyModelSettings(context_length=64, num_experts=4, active_experts=2),
    ],
    ids=["untied", "tied", "experts"],
)
def test_vllm_serves_the_model_and_agrees_with_transformers(
    settings: TinyModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    vllm = pytest.importorskip("vllm")
    model, tokenizer = create_model(settings, seed=0)
    # Freshly initialized heads give nearly equal logits; sharper ones leave no tie to rounding.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20.0)
    save_model(model, tokenizer, tmp_path)
    engine = vllm.LLM(
        str(tmp_path),
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=8,
        kv_cache_memory_bytes=32 << 20,
        distributed_executor_backend="uni",
        seed=0,
    )
    outputs = engine.generate(PROMPTS, vllm.SamplingParams(temperature=0.0, max_tokens=16), use_tqdm=False)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = sample_completions(reference, tokenizer, PROMPTS, temperature=0.0, max_new_tokens=16, seed=0)
    assert [output.outputs[0].text for output in outputs] == expected
    assert [output.prompt_token_ids for output in outputs] == tokenizer(PROMPTS)["input_ids"]
    engine.llm_engine.engine_core.shutdown()
