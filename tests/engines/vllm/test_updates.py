"""The real vLLM against Transformers: the same tokens must have the same log-probs after every update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.vllm_cases import (
    KINDS,
    PROMPT,
    TOLERANCE,
    Served,
    checkpoint,
    finish,
    gap,
    generate,
    logprobs,
    perturb,
    request_of,
    serve,
)

from bolt_ray.core.errors import ModelError, WeightSyncError
from bolt_ray.engines.vllm.weights import CorruptedEngineError
from bolt_ray.engines.weight_buckets import pack_buckets

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module", params=sorted(KINDS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve(request.param, tmp_path_factory.mktemp(request.param))
    yield served
    served.engine.close()


def test_every_update_agrees_with_transformers(served: Served) -> None:
    sequence = [*PROMPT, 11, 12, 13, 14]
    assert all(gap(served.model, done) <= TOLERANCE for done in generate(served.engine, [request_of(1)]))
    for seed in (10, 11, 12):
        before = logprobs(served.model, sequence)
        served.sync(seed)
        after = logprobs(served.model, sequence)
        assert np.abs(after - before).max() > 0.1  # a stale engine could not pass what follows
        np.testing.assert_allclose(served.engine.score([sequence])[0], after, atol=TOLERANCE)
        done = generate(served.engine, [request_of(i) for i in range(8)])
        assert len(done) == 8
        assert all(gap(served.model, completion) <= TOLERANCE for completion in done)
        assert {completion.newest_version for completion in done} == {served.engine.policy_version}


def test_an_update_meets_requests_in_flight(served: Served) -> None:
    """They go on; each token's log-prob is that of the weights its version names."""
    old_version = served.engine.policy_version
    served.engine.add([request_of(i) for i in range(8)])
    done = []
    for _ in range(5):
        done += served.engine.step()
    old = {name: tensor.clone() for name, tensor in served.model.state_dict().items()}
    served.sync(20)
    new = {name: tensor.clone() for name, tensor in served.model.state_dict().items()}
    done += finish(served.engine)
    assert len(done) == 8
    crossing = [completion for completion in done if completion.newest_version != completion.oldest_version]
    assert crossing
    for completion in crossing:
        assert (completion.oldest_version, completion.newest_version) == (old_version, old_version + 1)
        assert len(completion.token_ids) > 5
    served.model.load_state_dict(old)
    assert all(gap(served.model, completion, stop=5) <= TOLERANCE for completion in crossing)
    served.model.load_state_dict(new)
    assert all(gap(served.model, completion, start=5) <= TOLERANCE for completion in crossing)


def test_an_incomplete_update_changes_nothing(served: Served) -> None:
    tensors = checkpoint(served.model)
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
        perturb(served.model, seed=30)
        tensors = dict(served.model.state_dict())
        if not with_head:
            del tensors["lm_head.weight"]
        manifest, buckets = pack_buckets(tensors.items(), bucket_bytes=1 << 20)
        served.engine.update_weights(manifest, buckets, served.engine.policy_version + 1)
        np.testing.assert_allclose(served.engine.score([PROMPT])[0], logprobs(served.model, PROMPT), atol=TOLERANCE)


def test_an_update_that_fails_half_way_corrupts_the_engine(tmp_path: Path) -> None:
    served = serve("untied", tmp_path)
    manifest, buckets = pack_buckets(served.model.state_dict().items(), bucket_bytes=1 << 20, version=1)
    torn = replace(manifest.tensors[-1], offset=manifest.num_bytes + 64)
    with pytest.raises(CorruptedEngineError, match="updating the generator to version 1 failed half way"):
        served.engine.update_weights(replace(manifest, tensors=(*manifest.tensors[:-1], torn)), buckets, 1)
    assert served.engine.policy_version == 0
    for call in (lambda: served.engine.add([request_of(0)]), lambda: served.engine.score([PROMPT])):
        with pytest.raises(CorruptedEngineError, match="failed half way"):
            call()
    with pytest.raises(CorruptedEngineError):
        served.engine.update_weights(manifest, buckets, 1)
    served.engine.close()


def test_adapters_replace_each_other_and_requests_keep_the_one_they_began_with(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    served = serve("tied", tmp_path / "base", lora_rank=4)
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
        expected = logprobs(adapted, sequence)
        with adapted.disable_adapter():
            assert np.abs(expected - logprobs(adapted, sequence)).max() > 0.1
        # Several at once, and while others are being generated.
        served.engine.add([request_of(7)])
        served.engine.step()
        for scores, length in zip(served.engine.score([sequence, sequence[:4], sequence]), (0, 4, 0), strict=True):
            np.testing.assert_allclose(scores, expected[: length - 1] if length else expected, atol=TOLERANCE)
        finish(served.engine)
        done = generate(served.engine, [request_of(i) for i in range(4)])
        assert all(gap(adapted, completion) <= TOLERANCE for completion in done)
        assert {(c.oldest_version, c.newest_version) for c in done} == {(version, version)}
    served.engine.add([request_of(0)])
    served.engine.step()
    served.engine.update_adapter(tmp_path / "1", 3)
    served.engine.add([request_of(1)])
    done = sorted(finish(served.engine), key=lambda completion: completion.request_id)
    assert [(c.oldest_version, c.newest_version) for c in done] == [(2, 2), (3, 3)]
    # Training that went back to a checkpoint makes a version a second time, and another adapter of it.
    served.engine.update_adapter(tmp_path / "2", 3)
    np.testing.assert_allclose(served.engine.score([sequence])[0], logprobs(adapted, sequence), atol=TOLERANCE)
    with pytest.raises(ModelError, match=r"is not a LoRA adapter: it has no adapter_config\.json"):
        served.engine.update_adapter(tmp_path / "none", 4)
    assert served.engine.policy_version == 3
    served.engine.close()


def test_bfloat16_agrees_within_its_precision(tmp_path: Path) -> None:
    """On a CPU without bfloat16 instructions the kernels emulate it. Usual gaps are 0.01 to 0.03."""
    served = serve("tied", tmp_path, dtype="bfloat16")
    sequence = [*PROMPT, 11, 12, 13, 14]
    before = logprobs(served.model, sequence)
    served.sync(40)
    assert np.abs(logprobs(served.model, sequence) - before).max() > 0.3  # a stale engine could not pass what follows
    rounded = served.model.to(torch.bfloat16)
    np.testing.assert_allclose(served.engine.score([sequence])[0], logprobs(rounded, sequence), atol=0.1)
    done = generate(served.engine, [request_of(i) for i in range(8)])
    assert all(gap(rounded, completion) <= 0.1 for completion in done)
    served.engine.close()
