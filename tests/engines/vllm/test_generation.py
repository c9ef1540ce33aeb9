"""What the real vLLM generates and scores, and that every completion says truly what happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.vllm_cases import (
    CONTEXT,
    PROMPT,
    SHARP,
    TOLERANCE,
    Served,
    finish,
    gap,
    generate,
    logprobs,
    request_of,
    serve,
)

from bolt_ray.core.errors import DataError
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.engines.settings import SamplingSettings

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An engine whose weights stay as they are, with room for 16 requests."""
    served = serve("untied", tmp_path_factory.mktemp("plain"), sharpness=SHARP)
    yield served
    served.engine.close()


def test_a_completion_says_what_happened(plain: Served) -> None:
    short = SamplingSettings(max_new_tokens=3)
    done = generate(plain.engine, [request_of(i) for i in range(40)], short)
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
    alone = generate(plain.engine, [request_of(1, seed=77)], few)[0]
    crowd = generate(plain.engine, [request_of(i, seed=77 if i == 9 else i) for i in range(30)], few)[9]
    other = generate(plain.engine, [request_of(1, seed=78)], few)[0]
    assert alone.token_ids.tolist() == crowd.token_ids.tolist() != other.token_ids.tolist()
    np.testing.assert_allclose(crowd.logprobs, alone.logprobs, atol=TOLERANCE)


def test_requests_taken_back_leave_the_others_as_they_are(plain: Served) -> None:
    whole = SamplingSettings(max_new_tokens=12)
    expected = generate(plain.engine, [request_of(i) for i in range(4)], whole)
    plain.engine.add([request_of(i) for i in range(20)], whole)
    plain.engine.step()
    # Some run, some wait for a place, one was never here.
    assert plain.engine.abort([*range(4, 20), 99]) == [99]
    assert plain.engine.num_unfinished == 4
    done = sorted(finish(plain.engine), key=lambda completion: completion.request_id)
    assert [c.token_ids.tolist() for c in done] == [c.token_ids.tolist() for c in expected]
    # A number that was taken back may be used again.
    (again,) = generate(plain.engine, [request_of(7, seed=1)], whole)
    assert again.token_ids.tolist() == expected[1].token_ids.tolist()


def test_evaluation_may_sample_otherwise(plain: Served) -> None:
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=4)
    done = generate(plain.engine, [request_of(i) for i in range(3)], greedy)
    assert len({tuple(completion.token_ids.tolist()) for completion in done}) == 1
    tokens = list(PROMPT)
    for token in done[0].token_ids.tolist():
        with torch.no_grad():
            assert token == int(plain.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
        tokens.append(token)


def test_truncated_sampling_reports_the_truncated_distribution(plain: Served) -> None:
    done = generate(plain.engine, [request_of(0)], SamplingSettings(top_k=1, max_new_tokens=4))[0]
    np.testing.assert_allclose(done.logprobs, np.zeros(len(done.token_ids)), atol=1e-6)


def test_a_stop_string_ends_a_completion(plain: Served) -> None:
    whole = generate(plain.engine, [request_of(3)], SamplingSettings(max_new_tokens=20))[0]
    stop = whole.text[4]
    first = whole.text.index(stop)
    cut = generate(plain.engine, [request_of(3)], SamplingSettings(max_new_tokens=20, stop=(stop,)))[0]
    assert cut.text == whole.text[: first + 1]
    assert not cut.truncated
    assert len(cut.logprobs) == len(cut.token_ids)


def test_a_stop_token_ends_a_completion_as_the_end_of_sequence_does(plain: Served) -> None:
    """It is finished, the token is kept with its own log-prob, to be trained, and the text ends before it."""
    limit = SamplingSettings(max_new_tokens=20)
    whole = generate(plain.engine, [request_of(3)], limit)[0]
    stop = int(whole.token_ids[4])
    first = whole.token_ids.tolist().index(stop)
    cut = generate(plain.engine, [request_of(3)], replace(limit, stop_token_ids=(stop,)))[0]
    assert cut.token_ids.tolist() == whole.token_ids[: first + 1].tolist()
    assert gap(plain.model, cut) <= TOLERANCE
    assert cut.text == plain.tokenizer.decode(whole.token_ids[:first])
    assert not cut.truncated
    last = generate(plain.engine, [request_of(3)], replace(limit, max_new_tokens=first + 1, stop_token_ids=(stop,)))[0]
    assert not last.truncated, "also where the length limit is reached with it"


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
        plain.engine.add([request_of(1), request_of(2, prompt=prompt)])
    assert plain.engine.num_unfinished == 0
    assert len(generate(plain.engine, [request_of(1)])) == 1


def test_nothing_to_do_is_done_at_once(plain: Served) -> None:
    plain.engine.add([])
    assert plain.engine.step() == []
    assert plain.engine.score([]) == []


def test_scores_reach_from_two_tokens_to_a_full_context_beside_running_requests(plain: Served) -> None:
    generator = np.random.default_rng(0)
    sequences = [generator.integers(5, 30, size=size).tolist() for size in (2, 9, CONTEXT)]
    plain.engine.add([request_of(i) for i in range(8)])
    plain.engine.step()
    scores = plain.engine.score(sequences)
    assert [len(score) for score in scores] == [1, 8, CONTEXT - 1]
    for score, sequence in zip(scores, sequences, strict=True):
        np.testing.assert_allclose(score, logprobs(plain.model, sequence), atol=TOLERANCE)
    assert len(finish(plain.engine)) == 8
    with pytest.raises(DataError, match="sequence 0 to score has no tokens"):
        plain.engine.score([[5]])


def test_generated_tokens_count_up_while_requests_run(plain: Served) -> None:
    before = plain.engine.generated_tokens
    plain.engine.add([request_of(0)], SamplingSettings(max_new_tokens=3, temperature=0.0))
    seen = []
    while plain.engine.num_unfinished:
        done = plain.engine.step()
        seen.append(plain.engine.generated_tokens - before)
    assert seen == list(range(1, len(done[0].token_ids) + 1))


def test_steps_are_recorded_by_the_worker_that_takes_them(plain: Served, tmp_path: Path) -> None:
    target = ProfileTarget(directory=str(tmp_path), name="step-000005", tool="torch")
    plain.engine.profile(target, who="generator-0")
    generate(plain.engine, [request_of(0)], SamplingSettings(max_new_tokens=3))
    plain.engine.profile(None)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gz", ".txt"]
    assert "_C::" in (tmp_path / "step-000005-generator-0.txt").read_text(encoding="utf-8")
    # A recording ends by itself: that of a step with long completions would have gigabytes.
    (tmp_path / "long").mkdir()
    plain.engine.profile(replace(target, directory=str(tmp_path / "long")), who="generator-0")
    plain.engine.add([request_of(1)], SamplingSettings(max_new_tokens=40))
    plain.engine._steps_to_record = 2
    plain.engine.step()
    assert not list((tmp_path / "long").iterdir())
    plain.engine.step()
    assert len(list((tmp_path / "long").iterdir())) == 2
    finish(plain.engine)
    plain.engine.profile(None)
