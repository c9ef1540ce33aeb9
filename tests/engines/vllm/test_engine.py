"""The real vLLM against Transformers: the same tokens must have the same log-probs after every update."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.settings import engine_settings

from bolt_ray.core.errors import DataError, ModelError, WeightSyncError
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.engine import VLLMEngine
from bolt_ray.engines.vllm.weights import CorruptedEngineError
from bolt_ray.engines.weight_buckets import pack_buckets
from bolt_ray.tasks.arithmetic.model import create_model, save_model
from bolt_ray.tasks.arithmetic.settings import TinyModelSettings

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CONTEXT = 64
TOLERANCE = 1e-3
SHARP = 5.0
"""Factor on an output head of its own: the two likeliest tokens are then no tie that rounding could break, and sampling
still has several to choose from."""
PROMPT = [5, 6, 7, 8, 9, 10]
KINDS = {
    "tied": TinyModelSettings(size="tiny", tie_embeddings=True),
    "untied": TinyModelSettings(size="tiny", tie_embeddings=False),
    "experts": TinyModelSettings(size="tiny", num_experts=4, active_experts=2),
}


def _request(request_id: int, *, prompt: list[int] = PROMPT, seed: int | None = None) -> GenerationRequest:
    return GenerationRequest(
        request_id=request_id,
        kind="train",
        token_ids=np.array(prompt, dtype=np.int32),
        seed=request_id if seed is None else seed,
    )


def _finish(engine: VLLMEngine) -> list[Completion]:
    done = []
    while engine.num_unfinished:
        done += engine.step()
    return done


def _generate(
    engine: VLLMEngine, requests: list[GenerationRequest], sampling: SamplingSettings | None = None
) -> list[Completion]:
    engine.add(requests, sampling)
    return sorted(_finish(engine), key=lambda completion: completion.request_id)


def _tokens(completion: Completion) -> list[int]:
    """Of a request of ``PROMPT``."""
    return [*PROMPT, *completion.token_ids.tolist()]


def _logprobs(model: Any, tokens: list[int]) -> NDArray[np.float32]:
    """Transformers' log p of every token from the second on."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        logits = model(input_ids=ids).logits.float()
    picked = logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return np.asarray(picked.numpy())


def _gap(model: Any, completion: Completion, *, start: int = 0, stop: int | None = None) -> float:
    """max |Δ log p| between a completion's own log-probs and Transformers'."""
    theirs = _logprobs(model, _tokens(completion))[-len(completion.token_ids) :]
    return float(np.abs(theirs - completion.logprobs)[start:stop].max(initial=0.0))


def _perturb(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def _checkpoint(model: Any) -> dict[str, torch.Tensor]:
    """The state dict under the names of a checkpoint, which are not those of the modules for experts."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, dict(model.state_dict())))


@dataclass
class Served:
    """An engine and the Transformers model whose weights it has."""

    kind: str
    engine: VLLMEngine
    model: Any
    tokenizer: Any
    directory: Path

    def sync(self, seed: int) -> None:
        """New weights in the model and in the engine, as its next policy version."""
        _perturb(self.model, seed)
        version = self.engine.policy_version + 1
        manifest, buckets = pack_buckets(_checkpoint(self.model).items(), bucket_bytes=100_000, version=version)
        self.engine.update_weights(manifest, buckets, version)


def _serve(kind: str, directory: Path, *, sharpness: float = 1.0, **settings: Any) -> Served:
    model, tokenizer = create_model(KINDS[kind], seed=1)
    _perturb(model, seed=0)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharpness)
    save_model(model, tokenizer, directory)
    engine = VLLMEngine(
        engine_settings(
            model_dir=str(directory),
            **{"max_model_len": CONTEXT, "max_num_seqs": 16, "kv_cache_bytes": 64 << 20, **settings},
        ),
        sampling=SamplingSettings(max_new_tokens=20),
    )
    return Served(kind, engine, model.eval(), tokenizer, directory)


@pytest.fixture(scope="module", params=sorted(KINDS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = _serve(request.param, tmp_path_factory.mktemp(request.param))
    yield served
    served.engine.close()


def test_every_update_agrees_with_transformers(served: Served) -> None:
    sequence = [*PROMPT, 11, 12, 13, 14]
    assert all(_gap(served.model, done) <= TOLERANCE for done in _generate(served.engine, [_request(1)]))
    for seed in (10, 11, 12):
        before = _logprobs(served.model, sequence)
        served.sync(seed)
        after = _logprobs(served.model, sequence)
        assert np.abs(after - before).max() > 0.1  # a stale engine could not pass what follows
        np.testing.assert_allclose(served.engine.score([sequence])[0], after, atol=TOLERANCE)
        done = _generate(served.engine, [_request(i) for i in range(8)])
        assert len(done) == 8
        assert all(_gap(served.model, completion) <= TOLERANCE for completion in done)
        assert {completion.newest_version for completion in done} == {served.engine.policy_version}


def test_an_update_meets_requests_in_flight(served: Served) -> None:
    """They go on; each token's log-prob is that of the weights its version names."""
    old_version = served.engine.policy_version
    served.engine.add([_request(i) for i in range(8)])
    done = []
    for _ in range(5):
        done += served.engine.step()
    old = {name: tensor.clone() for name, tensor in served.model.state_dict().items()}
    served.sync(20)
    new = {name: tensor.clone() for name, tensor in served.model.state_dict().items()}
    done += _finish(served.engine)
    assert len(done) == 8
    crossing = [completion for completion in done if completion.newest_version != completion.oldest_version]
    assert crossing
    for completion in crossing:
        assert (completion.oldest_version, completion.newest_version) == (old_version, old_version + 1)
        assert len(completion.token_ids) > 5
    served.model.load_state_dict(old)
    assert all(_gap(served.model, completion, stop=5) <= TOLERANCE for completion in crossing)
    served.model.load_state_dict(new)
    assert all(_gap(served.model, completion, start=5) <= TOLERANCE for completion in crossing)


def test_an_incomplete_update_changes_nothing(served: Served) -> None:
    tensors = _checkpoint(served.model)
    name = "model.layers.1.self_attn.q_proj.weight"
    doubled = {key: tensor * 2 for key, tensor in tensors.items() if key != name}
    manifest, buckets = pack_buckets(doubled.items(), bucket_bytes=1 << 20)
    version, before = served.engine.policy_version, served.engine.score([PROMPT])[0]
    with pytest.raises(WeightSyncError, match=rf"1 missing \({name}\)"):
        served.engine.update_weights(manifest, buckets, version + 1)
    assert served.engine.policy_version == version
    np.testing.assert_array_equal(served.engine.score([PROMPT])[0], before)


@pytest.mark.parametrize("served", ["tied"], indirect=True)
def test_a_tied_head_may_be_sent_or_left_out(served: Served) -> None:
    for with_head in (True, False):
        _perturb(served.model, seed=30)
        tensors = dict(served.model.state_dict())
        if not with_head:
            del tensors["lm_head.weight"]
        manifest, buckets = pack_buckets(tensors.items(), bucket_bytes=1 << 20)
        served.engine.update_weights(manifest, buckets, served.engine.policy_version + 1)
        np.testing.assert_allclose(served.engine.score([PROMPT])[0], _logprobs(served.model, PROMPT), atol=TOLERANCE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An engine whose weights stay as they are, with room for 16 requests."""
    served = _serve("untied", tmp_path_factory.mktemp("plain"), sharpness=SHARP)
    yield served
    served.engine.close()


def test_a_completion_says_what_happened(plain: Served) -> None:
    short = SamplingSettings(max_new_tokens=3)
    done = _generate(plain.engine, [_request(i) for i in range(40)], short)
    assert [completion.request_id for completion in done] == list(range(40))
    eos = plain.tokenizer.eos_token_id
    for completion in done:
        assert completion.token_ids.dtype == np.int32
        assert completion.logprobs.dtype == np.float32
        assert len(completion.logprobs) == len(completion.token_ids) <= 3
        assert completion.truncated == (completion.token_ids[-1] != eos)
        assert completion.text == plain.tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_a_request_of_a_seed_gets_the_same_tokens_in_any_company(plain: Served) -> None:
    """Its noise comes from its own seed. The logits may differ by rounding, 1e-5 here, where the two best tokens with
    their noise are about 1 apart: a handful of tokens does not meet a tie."""
    few = SamplingSettings(max_new_tokens=6)
    alone = _generate(plain.engine, [_request(1, seed=77)], few)[0]
    crowd = _generate(plain.engine, [_request(i, seed=77 if i == 9 else i) for i in range(30)], few)[9]
    other = _generate(plain.engine, [_request(1, seed=78)], few)[0]
    assert alone.token_ids.tolist() == crowd.token_ids.tolist() != other.token_ids.tolist()
    np.testing.assert_allclose(crowd.logprobs, alone.logprobs, atol=TOLERANCE)


def test_evaluation_may_sample_otherwise(plain: Served) -> None:
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=4)
    done = _generate(plain.engine, [_request(i) for i in range(3)], greedy)
    assert len({tuple(completion.token_ids.tolist()) for completion in done}) == 1
    tokens = list(PROMPT)
    for token in done[0].token_ids.tolist():
        with torch.no_grad():
            assert token == int(plain.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
        tokens.append(token)


def test_truncated_sampling_reports_the_truncated_distribution(plain: Served) -> None:
    done = _generate(plain.engine, [_request(0)], SamplingSettings(top_k=1, max_new_tokens=4))[0]
    np.testing.assert_allclose(done.logprobs, np.zeros(len(done.token_ids)), atol=1e-6)


def test_a_stop_string_ends_a_completion(plain: Served) -> None:
    whole = _generate(plain.engine, [_request(3)], SamplingSettings(max_new_tokens=20))[0]
    stop = whole.text[4]
    first = whole.text.index(stop)
    cut = _generate(plain.engine, [_request(3)], SamplingSettings(max_new_tokens=20, stop=(stop,)))[0]
    assert cut.text == whole.text[: first + 1]
    assert not cut.truncated
    assert len(cut.logprobs) == len(cut.token_ids)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt of request 2 has no tokens"),
        ([5] * CONTEXT, f"prompt of request 2 has {CONTEXT} tokens; the context of {CONTEXT} leaves no room"),
        ([5, 10_000], "prompt of request 2 has token id 10000; the model knows 0 to"),
        ([5, -1], "prompt of request 2 has token id -1"),
    ],
)
def test_a_bad_prompt_is_refused_and_the_engine_lives(plain: Served, prompt: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        plain.engine.add([_request(1), _request(2, prompt=prompt)])
    assert plain.engine.num_unfinished == 0
    assert len(_generate(plain.engine, [_request(1)])) == 1


def test_nothing_to_do_is_done_at_once(plain: Served) -> None:
    plain.engine.add([])
    assert plain.engine.step() == []
    assert plain.engine.score([]) == []


def test_scores_reach_from_two_tokens_to_a_full_context_beside_running_requests(plain: Served) -> None:
    generator = np.random.default_rng(0)
    sequences = [generator.integers(5, 30, size=size).tolist() for size in (2, 9, CONTEXT)]
    plain.engine.add([_request(i) for i in range(8)])
    plain.engine.step()
    scores = plain.engine.score(sequences)
    assert [len(score) for score in scores] == [1, 8, CONTEXT - 1]
    for score, sequence in zip(scores, sequences, strict=True):
        np.testing.assert_allclose(score, _logprobs(plain.model, sequence), atol=TOLERANCE)
    assert len(_finish(plain.engine)) == 8
    with pytest.raises(DataError, match="sequence 0 to score has no tokens"):
        plain.engine.score([[5]])


def test_generated_tokens_count_up_while_requests_run(plain: Served) -> None:
    before = plain.engine.generated_tokens
    plain.engine.add([_request(0)], SamplingSettings(max_new_tokens=3, temperature=0.0))
    seen = []
    while plain.engine.num_unfinished:
        done = plain.engine.step()
        seen.append(plain.engine.generated_tokens - before)
    assert seen == list(range(1, len(done[0].token_ids) + 1))


def test_an_update_that_fails_half_way_corrupts_the_engine(tmp_path: Path) -> None:
    served = _serve("untied", tmp_path)
    manifest, buckets = pack_buckets(served.model.state_dict().items(), bucket_bytes=1 << 20, version=1)
    torn = replace(manifest.tensors[-1], offset=manifest.num_bytes + 64)
    with pytest.raises(CorruptedEngineError, match="updating the generator to version 1 failed half way"):
        served.engine.update_weights(replace(manifest, tensors=(*manifest.tensors[:-1], torn)), buckets, 1)
    assert served.engine.policy_version == 0
    for call in (lambda: served.engine.add([_request(0)]), lambda: served.engine.score([PROMPT])):
        with pytest.raises(CorruptedEngineError, match="failed half way"):
            call()
    with pytest.raises(CorruptedEngineError):
        served.engine.update_weights(manifest, buckets, 1)
    served.engine.close()


def test_adapters_replace_each_other_and_requests_keep_the_one_they_began_with(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    served = _serve("tied", tmp_path / "base", lora_rank=4)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], bias="none")
    adapted = get_peft_model(served.model, config).eval()
    sequence = [*PROMPT, 11, 12, 13]
    generator = torch.Generator().manual_seed(0)
    for version in (1, 2):
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        adapted.save_pretrained(tmp_path / str(version))
        served.engine.update_adapter(tmp_path / str(version), version)
        expected = _logprobs(adapted, sequence)
        with adapted.disable_adapter():
            assert np.abs(expected - _logprobs(adapted, sequence)).max() > 0.1
        # Several at once, and while others are being generated.
        served.engine.add([_request(7)])
        served.engine.step()
        for scores, length in zip(served.engine.score([sequence, sequence[:4], sequence]), (0, 4, 0), strict=True):
            np.testing.assert_allclose(scores, expected[: length - 1] if length else expected, atol=TOLERANCE)
        _finish(served.engine)
        done = _generate(served.engine, [_request(i) for i in range(4)])
        assert all(_gap(adapted, completion) <= TOLERANCE for completion in done)
        assert {(c.oldest_version, c.newest_version) for c in done} == {(version, version)}
    served.engine.add([_request(0)])
    served.engine.step()
    served.engine.update_adapter(tmp_path / "1", 3)
    served.engine.add([_request(1)])
    done = sorted(_finish(served.engine), key=lambda completion: completion.request_id)
    assert [(c.oldest_version, c.newest_version) for c in done] == [(2, 2), (3, 3)]
    with pytest.raises(ModelError, match=r"is not a LoRA adapter: it has no adapter_config\.json"):
        served.engine.update_adapter(tmp_path / "none", 4)
    assert served.engine.policy_version == 3
    served.engine.close()


def test_bfloat16_agrees_within_its_precision(tmp_path: Path) -> None:
    """On a CPU without bfloat16 instructions the kernels emulate it. Usual gaps are 0.01 to 0.03."""
    served = _serve("tied", tmp_path, dtype="bfloat16")
    sequence = [*PROMPT, 11, 12, 13, 14]
    before = _logprobs(served.model, sequence)
    served.sync(40)
    assert np.abs(_logprobs(served.model, sequence) - before).max() > 0.3  # a stale engine could not pass what follows
    rounded = served.model.to(torch.bfloat16)
    np.testing.assert_allclose(served.engine.score([sequence])[0], _logprobs(rounded, sequence), atol=0.1)
    done = _generate(served.engine, [_request(i) for i in range(8)])
    assert all(_gap(rounded, completion) <= 0.1 for completion in done)
    served.engine.close()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    sampling = SamplingSettings()
    with pytest.raises(ModelError, match=r"is not a Hugging Face model directory: it has no config\.json"):
        VLLMEngine(engine_settings(model_dir=str(tmp_path / "nowhere")), sampling=sampling)
    model, tokenizer = create_model(KINDS["tied"], seed=0)
    save_model(model, tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    with pytest.raises(ModelError, match=f"vLLM could not serve {tmp_path}: .*NoSuchModel"):
        VLLMEngine(engine_settings(model_dir=str(tmp_path)), sampling=sampling)


def test_without_vllm_the_error_names_the_extra(tmp_path: Path) -> None:
    """In a process whose vllm is a package that cannot be imported."""
    model, tokenizer = create_model(KINDS["tied"], seed=0)
    save_model(model, tokenizer, tmp_path / "model")
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('no vllm here')")
    program = (
        "from bolt_ray.engines.vllm.engine import *\n"
        f"VLLMEngine(engine_settings(model_dir={str(tmp_path / 'model')!r}), sampling=SamplingSettings())"
    )
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{tmp_path}:{root}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EnvironmentProblem: vLLM cannot be imported (no vllm here)" in run.stderr
    assert 'pip install "bolt-ray[cpu]"' in run.stderr
