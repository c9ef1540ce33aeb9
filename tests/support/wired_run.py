"""A whole training with stand-ins for everything that needs Ray, put together by the command's own assembly."""

from __future__ import annotations

import io
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from support.effects import Workplace, state_of
from support.fakes import FakeGenerators, FakeScorers

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.scorer_actor import ScoringRequest
from bolt_ray.commands.shared.inference import launch_generators, start_scorers
from bolt_ray.commands.shared.inputs import prepare_inputs
from bolt_ray.commands.shared.prompts import open_store
from bolt_ray.commands.train.assembly import TrainingAssembly
from bolt_ray.commands.train.fleet import Fleet
from bolt_ray.commands.train.resume import write_config
from bolt_ray.config.loading import dump_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.baseline.warm_start import WarmStartReport
from bolt_ray.core.digests import FileDigest, write_digested
from bolt_ray.core.errors import BoltRayError, LearnerLostError
from bolt_ray.core.records import (
    BaselineReading,
    Completion,
    DrawnPrompt,
    Outcomes,
    Prompt,
    StepReport,
    TrainingBatch,
)
from bolt_ray.data.ingest.build import build_store
from bolt_ray.data.ingest.ingest_source import unit_tables
from bolt_ray.data.store import PromptStore
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.training.checkpoint_storage import CheckpointStorage
from bolt_ray.training.checkpoint_uploads import CheckpointUploads
from bolt_ray.training.in_flight import SavedRequest
from bolt_ray.training.interrupts import InterruptFlag
from bolt_ray.training.learner_worker import PublishedWeights
from bolt_ray.training.loop import TrainingLoop
from bolt_ray.training.recovery import StartingPoint, train_with_recovery
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.run_lock import RunLock
from bolt_ray.training.telemetry.console import open_log
from bolt_ray.training.telemetry.record import read_metrics
from bolt_ray.training.telemetry.sample_files import read_samples, sample_files
from bolt_ray.training.telemetry.state import StateWriter

GAP = 0.004
"""max |Δ log p| that the generators are apart from the learner after every sync, in nats."""

Calls = list[tuple[str, Any]]


class Part:
    """Keeps what it is made from, and the calls that tell of a setting."""

    processes: tuple[ProcessInfo, ...] = ()

    def __init__(self, calls: Calls, **given: Any) -> None:
        self.calls = calls
        self.given = given

    def close(self) -> None:
        """Nothing runs."""

    def wait_ready(self, *, timeout_s: float | None = None, idle: Callable[[], None]) -> None:
        self.calls.append(("wait_ready", timeout_s))


class LearnerPart(Part):
    """``restore_from`` a checkpoint it goes on with the version of that."""

    def __init__(self, calls: Calls, **given: Any) -> None:
        super().__init__(calls, **given)
        restore_from = given["restore_from"]
        self.version = 0 if restore_from is None else int((restore_from / "version").read_text())

    def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport:
        self.calls.append(("train", timeout_s))
        self.calls.append(("batch", [batch.advantages, batch.active, batch.behavior_logprobs.shape]))
        idle()
        self.version += 1
        return StepReport(
            step=batch.step,
            policy_version=self.version,
            skipped=False,
            metrics={},
            logprobs_before=batch.behavior_logprobs,
        )

    def leaving(self) -> str:
        return ""

    def check(self) -> None:
        """It never ends."""

    def publish(self, *, version: int, probes: Sequence[NDArray[np.int32]], timeout_s: float) -> PublishedWeights:
        self.calls.append(("publish", timeout_s))
        logprobs = [np.zeros(len(probe) - 1, dtype=np.float32) for probe in probes]
        return PublishedWeights(
            manifest="all weights",  # type: ignore[arg-type]
            buckets=[],
            adapter=None,
            probe_logprobs=logprobs,
            sampled_logprobs=logprobs,
        )

    def save(
        self, *, directory: Path, model_directory: Path, timeout_s: float, idle: Callable[[], None]
    ) -> dict[str, FileDigest]:
        self.calls.append(("save", timeout_s))
        idle()
        directory.mkdir()
        (directory / "version").write_text(str(self.version))
        model_directory.mkdir()
        weights = directory / "weights.bin"
        return {str(weights): write_digested(weights, [b"w" * 1000])}


class LostLearner(LearnerPart):
    """Never comes through a step."""

    def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport:
        raise LearnerLostError("rank 0 died")


class ShardsPart(Part):
    def register(self, keys: Sequence[str], sources: Sequence[str], features: NDArray[np.uint16]) -> None:
        assert len(features) == len(keys)
        self.calls.append(("register", [len(keys), sorted(set(sources))]))

    def warm_start(self, path: Path, *, row_key: Any, allow_pickle: bool) -> WarmStartReport:
        self.calls.append(("warm_start", [path.name, allow_pickle]))
        return WarmStartReport(path=path, entries=1, matched=1, rows=1, hits=1, hit_rate=1.0, warning=None)

    def read(self, keys: Sequence[str], version: int) -> BaselineReading:
        n = len(keys)
        return BaselineReading(
            v_hat=np.full(n, 0.25), n_eff=np.full(n, 2.0), last_version=np.full(n, -1), visits=np.full(n, 3)
        )

    def commit(self, outcomes: Outcomes, *, update_id: str, drift: float | None) -> None:
        self.calls.append(("commit", [outcomes.reward_sums, outcomes.counts]))

    def metrics(self, version: int) -> dict[str, float]:
        return {}

    def snapshot(self, directory: Path, *, idle: Callable[[], None]) -> None:
        idle()
        directory.mkdir()

    def restore(self, directory: Path) -> None:
        self.calls.append(("restore", directory.parent.name))


class PromptsPart(Part):
    """The stream: prompts with ``group_size`` completions each."""

    def __init__(self, calls: Calls, **given: Any) -> None:
        super().__init__(calls, **given)
        self.stream = self
        self.drawn = 0

    def __iter__(self) -> Iterator[DrawnPrompt]:
        return self

    def __next__(self) -> DrawnPrompt:
        number, self.drawn = self.drawn, self.drawn + 1
        self.calls.append(("draw", number))
        return self._prompt(number)

    def _prompt(self, number: int) -> DrawnPrompt:
        size = self.given["schedule"].rollout.group_size
        prompt = Prompt(row=number, key=f"key-{number}", prompt="1+1=", answer="2", source="rows")
        token_ids = np.array([5, 6], dtype=np.int32)
        weight = 0.5 + number % 3
        return DrawnPrompt(group_id=number, prompt=prompt, token_ids=token_ids, num_samples=size, weight=weight)

    def prefetch_next(self) -> None:
        """Nothing is built ahead."""

    def first_token_ids(self, count: int) -> list[NDArray[np.int32]]:
        return [np.array([5, 6, 7], dtype=np.int32)]

    def after_step(self, step: int, rollouts: Any, *, version: int) -> None:
        self.calls.append(("after_step", step))

    def metrics(self) -> dict[str, float]:
        return {}

    def redraw(self, saved: Sequence[SavedRequest]) -> list[DrawnPrompt]:
        return [self._prompt(request.row) for request in saved]

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any], *, draws_dir: Path) -> None:
        self.drawn = state["drawn"]

    def save_draws(self, directory: Path) -> None:
        directory.mkdir()


class GeneratorsPart(FakeGenerators):
    """Every third completion of training is cut at the length limit."""

    def __init__(self, calls: Calls, **given: Any) -> None:
        super().__init__()
        self.calls, self.given = calls, given

    def close(self) -> None:
        self.calls.append(("close", None))

    def reset(self, version: int) -> None:
        self.calls.append(("reset", version))
        self.waiting.clear()

    def wait_ready(self, *, idle: Callable[[], None], say: Callable[[str], None]) -> None:
        idle()

    def profile(self, target: ProfileTarget | None) -> None:
        self.calls.append(("profile", target))

    def submit(self, requests: Sequence[Any], sampling: SamplingSettings | None = None) -> None:
        name = "eval" if sampling is not None else "generate"
        self.calls.append((name, [(request.request_id, request.seed) for request in requests]))
        self.calls.append((f"{name} with", sampling or self.given["sampling"]))
        super().submit(requests, sampling)

    def completed(self, request: Any, *, truncated: bool = False) -> Completion:
        return super().completed(request, truncated=request.request_id % 3 == 0)

    def update_weights(
        self,
        manifest: Any,
        buckets: Any,
        version: int,
        *,
        probes: Sequence[Sequence[int]],
        doubt: Any,
        timeout_s: float,
    ) -> list[list[NDArray[np.float32]]]:
        self.calls.append(("update_weights", timeout_s))
        self.version = version
        return [[np.full(len(probe) - 1, GAP, dtype=np.float32) for probe in probes]]


class ScorersPart(FakeScorers):
    """0.4, 0.6, 0.8, 1.0 by turns, and of every eighth completion no verdict."""

    def __init__(self, calls: Calls, **given: Any) -> None:
        super().__init__(self._reward)
        self.calls, self.given = calls, given

    def submit(self, requests: Sequence[ScoringRequest]) -> None:
        self.calls.append(("prefills", [request.input.prefill for request in requests]))
        super().submit(requests)

    @staticmethod
    def _reward(request: ScoringRequest) -> float | None:
        return None if request.request_id % 8 == 7 else 0.4 + request.request_id % 4 / 5

    def close(self) -> None:
        self.calls.append(("close", None))

    def reset(self) -> None:
        self.calls.append(("reset", None))


def read_here(units: Sequence[Any], rules: Sequence[Any]) -> Iterator[Any]:
    """What Ray Data does, in this process."""
    return itertools.chain.from_iterable(unit_tables(unit, rules[unit.source]) for unit in units)


def store_here(datasets: Sequence[Any], config: RunConfig) -> PromptStore:
    """`open_store` without Ray."""
    return open_store(datasets, config, build=partial(build_store, read=read_here))


def write_rows(directory: Path, count: int = 12) -> Path:
    """``rows.jsonl``: problems whose prompts grow longer."""
    rows = [{"prompt": "1+" * number + "1=", "answer": str(number + 1), "kind": number % 2} for number in range(count)]
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


_RUNS: dict[tuple[Path, str], dict[str, Any]] = {}


def run_wired(config: RunConfig, here: Workplace) -> dict[str, Any]:
    """What `run_once` gives; the same configuration in the same place is run once."""
    key = (here.directory, dump_config(config))
    if key not in _RUNS:
        _RUNS[key] = run_once(config, here)
    return _RUNS[key]


def run_once(config: RunConfig, here: Workplace, *, learner_part: type[LearnerPart] = LearnerPart) -> dict[str, Any]:
    """Put a run together and train it; what each part was made from, the calls, and what is left of the run."""
    write_rows(here.directory)
    learner, shards, prompts, generators, scorers = ([], [], [], [], [])  # type: ignore[var-annotated]
    made: dict[str, Any] = {}

    def note(name: str, kind: Any, calls: Calls) -> Callable[..., Any]:
        def make(**given: Any) -> Any:
            made[name] = given
            return kind(calls, **given)

        return make

    class WiredFleet(Fleet):
        launch_generators = staticmethod(
            partial(launch_generators, launch=note("generators", GeneratorsPart, generators))
        )
        start_scorers = staticmethod(partial(start_scorers, start=note("scorers", ScorersPart, scorers)))

    class Wired(TrainingAssembly):
        learner_group = staticmethod(note("learner", learner_part, learner))  # type: ignore[assignment]
        start_shards = staticmethod(note("shards", ShardsPart, shards))  # type: ignore[assignment]
        open_store = staticmethod(store_here)
        verify_references = staticmethod(lambda *_, **__: None)
        prompt_stream = staticmethod(note("prompts", PromptsPart, prompts))  # type: ignore[assignment]

        def _loop(self, *parts: Any) -> TrainingLoop:
            loop = super()._loop(*parts)
            made["loop"] = state_of(loop)
            return loop

    run = RunDirectory(here.directory / "run")
    run.root.mkdir()
    write_config(run.config, config)
    handler = open_log(run.log)
    problem = ""
    progress = StateWriter(run.state, max_steps=config.train.max_steps)
    uploads = None
    if config.checkpoint.storage is not None:
        storage = CheckpointStorage(config.checkpoint.storage)
        uploads = CheckpointUploads(storage, keep=config.checkpoint.keep, say=print)
    try:
        with RunLock(run, say=print) as lock, progress:
            inputs = prepare_inputs(config, say=lambda text: None, show_progress=False)
            with WiredFleet(config, inputs) as fleet, uploads or nullcontext():
                train_with_recovery(
                    partial(
                        Wired,
                        config=config,
                        run=run,
                        lock=lock,
                        uploads=uploads,
                        inputs=inputs,
                        fleet=fleet,
                        interrupts=InterruptFlag(),
                        console=Console(file=io.StringIO()),
                        progress=progress,
                    ),
                    StartingPoint(checkpoint=None, state=None),
                    run=run,
                    cluster=config.cluster,
                    say=lambda text: None,
                )
    except BoltRayError as error:
        problem = str(error)
    finally:
        logging.getLogger("bolt_ray").removeHandler(handler)
        handler.close()
    records = read_metrics(run.metrics_jsonl) if run.metrics_jsonl.exists() else []
    return {
        "made": made,
        "learner": learner,
        "shards": shards,
        "prompts": prompts,
        "generators": generators,
        "scorers": scorers,
        "problem": problem,
        "checkpoints": sorted(path.name for path in run.checkpoints.glob("*")) if run.checkpoints.exists() else [],
        "samples": {file.path.stem: read_samples(file.path)[0] for file in sample_files(run.samples)},
        "files": sorted(path.name for path in run.root.iterdir()),
        "records": [{key: value for key, value in record.items() if _steady(key)} for record in records],
    }


def _steady(key: str) -> bool:
    return not key.startswith(("time", "throughput", "memory"))


def called(run: dict[str, Any], part: str, name: str) -> list[Any]:
    """The arguments of a part's calls of that name, in order."""
    return [value for call, value in run[part] if call == name]
