"""Scoring every prompt: order, evidence, bounded flight, what is kept of an interrupted run; and the real thing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.fakes import TIMEOUT, FakeGenerators, FakeScorers, RewardOf
from support.models import make_adapter

from bolt_ray.actors.scorer_actor import ScoringRequest
from bolt_ray.commands.precompute_baseline.precompute_baseline import precompute_baseline
from bolt_ray.commands.precompute_baseline.prompt_scoring import PromptScorer
from bolt_ray.commands.precompute_baseline.score_file import PromptScores, ScoreFile, partial_path
from bolt_ray.commands.precompute_baseline.score_fingerprint import directory_digest, score_fingerprint
from bolt_ray.commands.shared.prompts import open_store
from bolt_ray.commands.shared.resources import resource_map, total_demand
from bolt_ray.config.loading import build_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.errors import CheckpointError, ModelError, StallError, UnhealthyTrainingError
from bolt_ray.core.records import Completion, DrawnPrompt, GenerationRequest, Prompt
from bolt_ray.rewards.unscored import check_unscored, without_detail
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.interrupts import Interrupted

FINGERPRINT = {"model": "m1", "seed": 0, "sampling": {"stop": ()}}


class Generators(FakeGenerators):
    """Answers up to ``at_once`` requests per look, the last ones first; sample 0 of every prompt is cut off."""

    def __init__(self, *, at_once: int = 3) -> None:
        super().__init__()
        self.at_once = at_once
        self.most_waiting = 0

    def submit(self, requests: Sequence[GenerationRequest], sampling: object = None) -> None:
        super().submit(requests, sampling)
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def poll(self, timeout_s: float) -> list[Completion]:
        done = [self.waiting.pop() for _ in range(min(self.at_once, len(self.waiting)))]
        # Three samples a prompt, numbered by row and sample.
        return [self.completed(request, truncated=request.request_id % 3 == 0) for request in done]


def drawn(row: int) -> DrawnPrompt:
    prompt = Prompt(row=row, key=f"key-{row}", prompt=f"p{row}")
    return DrawnPrompt(group_id=row, prompt=prompt, token_ids=np.array([5], dtype=np.int32))


def scorer_of(
    rows: Sequence[int], save: Callable[[Sequence[PromptScores]], None], rewards: RewardOf, **settings: object
) -> PromptScorer:
    defaults: dict[str, object] = {
        "num_samples": 3,
        "seed": 7,
        "max_in_flight": 5,
        "skip_truncated": False,
        "stall_s": 5.0,
    }
    generators = settings.pop("generators", None) or Generators()
    return PromptScorer(
        service=CompletionService(generators=generators, scorers=FakeScorers(rewards, shaping=-5.0)),  # type: ignore[arg-type]
        prompts=[drawn(row) for row in rows],
        save=save,
        **(defaults | settings),  # type: ignore[arg-type]
    )


def by_seed(request: ScoringRequest) -> float:
    # The fake answers with the request's seed.
    return float(int(request.input.completion) % 2)


def test_scores_are_the_trackers_in_sample_order_and_a_prompt_without_any_is_left_out() -> None:
    rewards = {(0, 0): 1.0, (0, 1): 0.0, (0, 2): 0.5, (1, 0): None, (1, 1): 1.0, (1, 2): None}
    saved: list[PromptScores] = []
    scorer = scorer_of([0, 1, 2], saved.extend, lambda request: rewards.get(divmod(request.request_id, 3)))
    scorer.run()
    assert sorted(saved, key=lambda entry: entry.row) == [
        PromptScores(row=0, key="key-0", scores=(1.0, 0.0, 0.5)),
        PromptScores(row=1, key="key-1", scores=(1.0,)),
    ]
    assert (scorer.num_scored, scorer.unscored, scorer.without_score) == (4, {without_detail(TIMEOUT): 5}, 1)


def test_truncated_completions_can_be_no_evidence() -> None:
    saved: list[PromptScores] = []
    scorer_of([4], saved.extend, lambda request: float(request.request_id % 3), skip_truncated=True).run()
    assert saved == [PromptScores(row=4, key="key-4", scores=(1.0, 2.0))]


def test_never_more_in_flight_than_allowed_and_every_request_has_its_own_seed() -> None:
    generators = Generators(at_once=2)
    scorer_of(range(20), lambda entries: None, by_seed, generators=generators, num_samples=7).run()
    assert generators.most_waiting == 5
    assert [request.request_id for request in generators.seen] == list(range(140))
    assert len({request.seed for request in generators.seen}) == 140


def test_no_prompts_at_all() -> None:
    saved: list[PromptScores] = []
    scorer_of([], saved.extend, by_seed).run()
    assert saved == []


def test_a_standstill_is_an_error_and_what_was_finished_is_saved() -> None:
    saved: list[PromptScores] = []
    generators = Generators(at_once=3)

    def stop_after_one_prompt() -> None:
        generators.at_once = 0 if len(generators.seen) > 8 else 3

    scorer = scorer_of(
        range(9), saved.extend, by_seed, generators=generators, stall_s=0.05, check=stop_after_one_prompt
    )
    with pytest.raises(StallError, match="has waited for completions of prompts, 6 came so far since"):
        scorer.run()
    assert len(saved) == 1


def test_too_many_unscored_completions_end_it() -> None:
    scorer = scorer_of(range(9), lambda entries: None, lambda request: None)
    scorer.run()
    with pytest.raises(UnhealthyTrainingError, match="27 of 27 completions"):
        check_unscored(num_scored=scorer.num_scored, reasons=scorer.unscored, max_unscored_fraction=0.5)


def test_the_finished_file_is_exactly_a_warm_start_file(tmp_path: Path) -> None:
    output = tmp_path / "base.json"
    file = ScoreFile(output, fingerprint=FINGERPRINT)
    file.append(
        [PromptScores(row=3, key="späť", scores=(0.0,)), PromptScores(row=1, key="a", scores=(1.0, 0.0, 1.0, 1.0))]
    )
    summary = file.summary(reward_range=(0.0, 1.0))
    assert (summary.prompts, summary.scores, summary.mean_v_hat) == (2, 5, 0.375)
    metadata = {"model": "m", "dataset": "d", "num_samples": 4, "n_prompts": 2, "mean_v_hat": 0.375, "timestamp": "t"}
    file.finish(metadata)
    document = json.loads(output.read_text(encoding="utf-8"))
    assert document == {"metadata": metadata, "baselines": {"a": [1.0, 0.0, 1.0, 1.0], "späť": [0.0]}}
    assert list(document["baselines"]) == ["a", "späť"], "in row order"
    assert [path.name for path in tmp_path.iterdir()] == ["base.json"]
    store = BaselineStore(estimator="beta")
    store.register(["a", "späť"])
    assert store.load_from_json(output).hit_rate == 1.0
    # N₀ = 8, n₀ = 4, s = 3: α = 8 · 3.5/5 = 5.6, β = 8 · 1.5/5 = 2.4
    assert store.get("a") == pytest.approx((0.7, 8.0))


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole.json", tmp_path / "stopped.json"
    file = ScoreFile(whole, fingerprint=FINGERPRINT)
    scorer_of(range(10), file.append, by_seed).run()
    file.finish({})

    first = ScoreFile(stopped, fingerprint=FINGERPRINT)
    generators = Generators()

    def interrupt() -> None:
        if len(generators.seen) > 15:
            raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted):
        scorer_of(range(10), first.append, by_seed, generators=generators, check=interrupt).run()
    assert 0 < len(first) < 10
    first.close()
    assert not stopped.exists()

    second = ScoreFile(stopped, fingerprint=FINGERPRINT)
    done = second.done_rows.tolist()
    assert len(done) == len(first)
    generators = Generators()
    missing = [row for row in range(10) if row not in done]
    scorer_of(missing, second.append, by_seed, generators=generators).run()
    assert {request.request_id // 3 for request in generators.seen} == set(missing)
    second.finish({})
    assert stopped.read_bytes() == whole.read_bytes()


def begun(tmp_path: Path) -> Path:
    output = tmp_path / "base.json"
    file = ScoreFile(output, fingerprint=FINGERPRINT)
    file.append([PromptScores(row=row, key=f"key-{row}", scores=(1.0,)) for row in (2, 0)])
    file.close()
    return output


def test_a_line_torn_by_a_crash_is_done_again(tmp_path: Path) -> None:
    output = begun(tmp_path)
    with partial_path(output).open("ab") as file:
        file.write(b'{"row": 1, "key": "key-1", "sc')
    again = ScoreFile(output, fingerprint=FINGERPRINT)
    assert again.done_rows.tolist() == [2, 0]
    again.append([PromptScores(row=1, key="key-1", scores=(0.0,))])
    again.finish({})
    assert list(json.loads(output.read_text())["baselines"].items()) == [
        ("key-0", [1.0]),
        ("key-1", [0.0]),
        ("key-2", [1.0]),
    ]


def test_what_was_begun_under_other_settings_is_refused_and_kept(tmp_path: Path) -> None:
    output = begun(tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings: seed \(then 0, now 1\).*delete it to start over"):
        ScoreFile(output, fingerprint=FINGERPRINT | {"seed": 1})
    assert len(ScoreFile(output, fingerprint=FINGERPRINT)) == 2


def test_files_that_cannot_be_gone_on_with_are_refused(tmp_path: Path) -> None:
    output = begun(tmp_path)
    partial = partial_path(output)
    lines = partial.read_text().splitlines(keepends=True)
    partial.write_text("".join([lines[0], "{}\n", lines[2]]))
    with pytest.raises(CheckpointError, match=r"partial\.jsonl:2: not a line of this file"):
        ScoreFile(output, fingerprint=FINGERPRINT)
    partial.write_text("shopping list\n")
    with pytest.raises(CheckpointError, match="not a partial result"):
        ScoreFile(output, fingerprint=FINGERPRINT)
    output.write_text("{}")
    with pytest.raises(CheckpointError, match="is there already"):
        ScoreFile(output, fingerprint=FINGERPRINT)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    file = ScoreFile(tmp_path / "base.json", fingerprint=FINGERPRINT)
    with pytest.raises(CheckpointError, match="another process is writing it"):
        ScoreFile(tmp_path / "base.json", fingerprint=FINGERPRINT)
    file.close()
    assert list(tmp_path.iterdir()) == [], "nothing was finished, nothing is left"


def config_of(**changes: object) -> RunConfig:
    tree: dict[str, object] = {
        "datasets": [{"name": "train.jsonl"}],
        "rewards": [{"type": "arithmetic"}],
        "cluster": {"use_gpu": "no"},
    }
    return build_config(tree | changes)


def test_the_fingerprint_follows_content_not_places(tmp_path: Path) -> None:
    for name, weights in (("here", b"abc" * 50_000), ("there", b"abc" * 50_000), ("other", b"abd" * 50_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    here, there, other = (directory_digest(tmp_path / name) for name in ("here", "there", "other"))
    assert here == there != other

    def rewards(directory: str) -> object:
        config = config_of(rewards=[{"type": f"{tmp_path / directory}/own.py:score"}])
        return score_fingerprint(config, store_address="s", model_path=tmp_path / "here", adapter=None, num_samples=4)[
            "rewards"
        ]

    for name, value in (("here", 1.0), ("there", 1.0), ("other", 0.0)):
        (tmp_path / name / "own.py").write_text(f"def score(item): return {value}\n")
    assert rewards("here") == rewards("there") != rewards("other")


def test_no_room_is_asked_for_learners_and_shards() -> None:
    config = config_of(cluster={"use_gpu": "no", "num_learners": 4}, scoring={"num_scorers": 2, "cpus_per_scorer": 0.5})
    groups = resource_map(config, learners=False)
    assert [group.role for group in groups] == ["generators (vLLM)", "scorers", "prompt tasks (Ray Data)"]
    assert total_demand(groups) == (3.0, 0.0)
    assert len(resource_map(config)) == 5


def test_a_directory_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "1+1="}\n')
    (tmp_path / "config.json").write_text("{}")
    config = config_of(datasets=[{"name": str(tmp_path / "train.jsonl")}], model={"name_or_path": str(tmp_path)})
    with pytest.raises(ModelError, match=r"--adapter .*: not the directory of a LoRA adapter"):
        precompute_baseline(config, output=tmp_path / "base.json", num_samples=2, adapter=tmp_path)


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_precompute_warm_start_and_inspect_on_the_real_parts(ray_cluster: None, tmp_path: Path) -> None:
    from bolt_ray.actors.baseline_shards import BaselineShards
    from bolt_ray.commands.inspect.inspect import inspect_run
    from bolt_ray.config.loading import dump_config
    from bolt_ray.tasks.tiny.model import create_model, save_model
    from bolt_ray.tasks.tiny.settings import TinyModelSettings

    save_model(*create_model(TinyModelSettings(size="tiny", context_length=64), seed=0), tmp_path / "model")
    problems = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(6)]
    problems.append({"prompt": "(" * 40 + "1" + ")" * 40, "answer": "1"})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    config = config_of(
        model={"name_or_path": str(tmp_path / "model"), "dtype": "float32"},
        datasets=[{"name": str(tmp_path / "train.jsonl")}],
        data={"store_dir": str(tmp_path / "store"), "max_prompt_tokens": 32},
        sampling={"max_new_tokens": 4},
        generator={"kv_cache_gib": 0.05, "max_num_seqs": 16},
        scoring={"num_scorers": 1, "cpus_per_scorer": 0.25},
        rewards=[{"type": "regex", "pattern": "[0-4]"}],
        baseline={"estimator": "beta"},
    )
    output, text = tmp_path / "base.json", io.StringIO()
    precompute_baseline(config, output=output, num_samples=3, console=Console(file=text, width=200))
    assert "1 prompts left out: too many tokens" in text.getvalue()
    document = json.loads(output.read_text())
    store = open_store(config.datasets, config)
    assert list(document["baselines"]) == store.keys().to_pylist()[:6]
    assert {len(scores) for scores in document["baselines"].values()} == {3}
    assert set(document["metadata"]) == {"model", "dataset", "num_samples", "n_prompts", "mean_v_hat", "timestamp"}
    assert (document["metadata"]["dataset"], document["metadata"]["n_prompts"]) == ("train", 6)

    make_adapter(tmp_path / "model", tmp_path / "adapter")
    adapted, quiet = tmp_path / "adapted.json", Console(quiet=True)
    precompute_baseline(config, output=adapted, num_samples=3, adapter=tmp_path / "adapter", console=quiet)
    with_adapter = json.loads(adapted.read_text())["baselines"]
    assert list(with_adapter) == list(document["baselines"]) and with_adapter != document["baselines"]

    shards = BaselineShards.start(
        num_shards=2,
        settings=config.baseline,
        wal_dir=tmp_path / "wal",
        timeout_s=60.0,
        startup_s=60.0,
        cpus_per_shard=0.1,
    )
    try:
        shards.register(store.keys().to_pylist()[:6])
        report = shards.warm_start(output)
        assert (report.hit_rate, report.hits, report.warning) == (1.0, 6, None)
        scores = next(iter(document["baselines"].values()))
        read = shards.read(list(document["baselines"])[:1])
        assert (read.v_hat[0], read.n_eff[0]) == pytest.approx(((sum(scores) + 0.5) / 4, 8.0))
        checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
        checkpoint.mkdir(parents=True)
        shards.snapshot(checkpoint / "baseline")
    finally:
        shards.close()

    state = {"step": 2, "version": 0, "prompts": {"stream": {"store": store.address}}}
    (checkpoint / "state.json").write_text(json.dumps(state))
    (tmp_path / "run" / "config.yaml").write_text(dump_config(config))
    inspect_run(tmp_path / "run", top=3, png=None, html=None, console=Console(file=text, width=120))
    assert "0+1=" in text.getvalue()
    assert "0.0 % of 7 prompts were trained on" in text.getvalue()
