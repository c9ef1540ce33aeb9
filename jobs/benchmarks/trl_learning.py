"""TRL's GRPOTrainer against BoltGRPOTrainer at equal completions: held-out curves, and what a step costs.

Task, start model, held-out problems and sampling are those of ``learning.py``, and so is the layout of the curves:
with ``--out`` of that benchmark its table shows TRL's trainer (trl-grpo, K = 8) as another method. Both trainers run
with the same settings of TRL, each at the best of some learning rates, chosen on a seed of its own. What is done is
kept, each curve line by line, and the same command goes on where it was interrupted, within a run too.

    python jobs/benchmarks/trl_learning.py --out runs/learning              # all of it: hours on two cores
    python jobs/benchmarks/trl_learning.py --out runs/learning --minutes 6  # as much as fits, then ends with code 3
    python jobs/benchmarks/trl_learning.py --out runs/learning --speed 40   # seconds per step at the same K, by turns
    python jobs/benchmarks/trl_learning.py --out runs/learning --report trl.png  # table and picture of what is done
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning_report import TUNING, Curves, draw, read_curves, read_tuning, table, tuning_table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bolt_ray.integrations.trl import BoltConfig, BoltGRPOTrainer
from bolt_ray.tasks.arithmetic.dataset import ensure_files
from bolt_ray.tasks.arithmetic.pretrain import ensure_model
from bolt_ray.tasks.arithmetic.problems import is_correct
from bolt_ray.tasks.arithmetic.settings import ArithmeticSettings
from bolt_ray.tasks.tiny.sampling import sample_completions

TASK = "arithmetic-4000"
PROMPTS = 4_000
BATCH = 256
STEPS = 200
EVERY = 25
MAX_TOKENS = 48
TUNING_SEED = 100
COLUMNS = ("step", "completions", "tokens", "seconds", "score")
METHODS = {"trl-grpo": 8, "trl-bolt": 1}
"""Completions per prompt."""
NOT_DONE = 3
"""The exit code of a call that ended by its limit of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training."""

    method: str
    rate: float
    seed: int
    steps: int = STEPS

    def directory(self, out: Path) -> Path:
        return out / f"{TASK}/{BATCH}/{self.method}/rate-{self.rate:g}/seed-{self.seed}"


class OutOfTimeError(Exception):
    """The limit of time is reached; everything is saved."""


class Deadline:
    """When to end; None: never."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def passed(self) -> bool:
        return self._end is not None and time.monotonic() > self._end


def right(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """The arithmetic task's own check."""
    return [float(is_correct(text, wanted)) for text, wanted in zip(completions, answer, strict=True)]


class Task:
    """The embedded task: its model as it is before training, and its problems."""

    def __init__(self) -> None:
        settings = ArithmeticSettings(num_train=PROMPTS)
        self.model_path = ensure_model(settings, cache_dir=settings.cache)[0]
        train, heldout = ensure_files(settings, cache_dir=settings.cache)
        self.train = _rows(train)
        self.heldout = _rows(heldout)
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(self.model_path)

    def score(self, model: Any, *, seed: int) -> float:
        """Share of the held-out problems answered right, once each at temperature 1."""
        was_training = model.training
        model.eval()
        texts = sample_completions(
            model,
            self.tokenizer,
            [row["prompt"] for row in self.heldout],
            temperature=1.0,
            max_new_tokens=MAX_TOKENS,
            seed=1234 + seed,
        )
        model.train(was_training)
        return float(np.mean(right(texts, [row["answer"] for row in self.heldout])))

    def trainer(self, trial: Trial, directory: Path, **changes: Any) -> Any:
        """The trial's trainer; ``changes`` are settings of it by name."""
        from datasets import Dataset

        config, kind = (BoltConfig, BoltGRPOTrainer) if trial.method == "trl-bolt" else (GRPOConfig, GRPOTrainer)
        shared: dict[str, Any] = {
            "output_dir": str(directory),
            "seed": trial.seed,
            "num_generations": METHODS[trial.method],
            "max_steps": trial.steps,
            "learning_rate": trial.rate,
            "per_device_train_batch_size": BATCH,
            "max_completion_length": MAX_TOKENS,
            "temperature": 1.0,
            "adam_beta2": 0.95,
            "warmup_steps": 5,
            "lr_scheduler_type": "constant_with_warmup",
            "gradient_checkpointing": False,
            "bf16": False,
            "use_cpu": not torch.cuda.is_available(),
            "save_steps": EVERY,
            "save_total_limit": 1,
            "logging_steps": EVERY,
            "disable_tqdm": True,
            "report_to": [],
        }
        return kind(
            model=AutoModelForCausalLM.from_pretrained(self.model_path, dtype=torch.float32),
            reward_funcs=right,
            args=config(**shared | changes),
            train_dataset=Dataset.from_list(self.train),
            processing_class=self.tokenizer,
        )


class CurveCallback(TrainerCallback):  # type: ignore[misc]  # Transformers has no types here
    """Evaluates every ``EVERY`` steps and adds a line to the curve; ends the run at the deadline, at a checkpoint."""

    def __init__(self, task: Task, trial: Trial, curve: Path, deadline: Deadline) -> None:
        self._task, self._trial, self._curve, self._deadline = task, trial, curve, deadline
        self._seconds = 0.0
        self._tokens = 0.0
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        rows = [row for row in _read_curve(self._curve) if row["step"] <= state.global_step]
        _write_curve(self._curve, rows)
        seen = float(state.num_input_tokens_seen)  # a resumed trainer counts on, or anew
        self._seconds, self._tokens = (rows[-1]["seconds"], rows[-1]["tokens"] - seen) if rows else (0.0, 0.0)
        if not rows:
            self._add(state, model)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._seconds += time.perf_counter() - self._started
        if state.global_step % EVERY == 0:
            self._add(state, model)
            control.should_training_stop = control.should_training_stop or self._deadline.passed()

    def _add(self, state: Any, model: Any) -> None:
        spent = {
            "completions": float(BATCH * state.global_step),
            "tokens": self._tokens + float(state.num_input_tokens_seen),
            "seconds": self._seconds,
        }
        row = {"step": float(state.global_step), **spent, "score": self._task.score(model, seed=self._trial.seed)}
        _write_curve(self._curve, [*_read_curve(self._curve), row])
        print(self._trial, row, flush=True)


def curve_of(trial: Trial, out: Path, task: Task, deadline: Deadline) -> list[dict[str, float]]:
    """The trial's evaluations; it is trained now, or further, if it was not yet.

    Raises:
        OutOfTimeError: the deadline came first.
    """
    directory = trial.directory(out)
    done, part = directory / "curve.csv", directory / "curve.part.csv"
    if not done.exists():
        if deadline.passed():
            raise OutOfTimeError
        directory.mkdir(parents=True, exist_ok=True)
        trainer = task.trainer(trial, directory)
        trainer.add_callback(CurveCallback(task, trial, part, deadline))
        trainer.train(resume_from_checkpoint=any(directory.glob("checkpoint-*")))
        rows = _read_curve(part)
        if rows[-1]["step"] < trial.steps:
            raise OutOfTimeError
        part.rename(done)
        for checkpoint in directory.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return _read_curve(done)


def final_score(rows: Sequence[dict[str, float]]) -> float:
    """Mean of the last three evaluations, as in ``learning.py``."""
    return float(np.mean([row["score"] for row in rows[-3:]]))


def run(plan: argparse.Namespace, out: Path, deadline: Deadline) -> None:
    """Tuning, then seed by seed, so that an interrupted table is whole up to some seed."""
    task = Task()
    rates = {name: float(rate) for name, _, rate in (each.partition("=") for each in plan.fixed)}
    for method in METHODS:
        if method in rates:
            continue
        trials = [Trial(method=method, rate=r, seed=TUNING_SEED, steps=plan.tuning_steps) for r in plan.rates]
        rates[method] = max(trials, key=lambda t: final_score(curve_of(t, out, task, deadline))).rate
    for seed in range(plan.seeds):
        for method in METHODS:
            curve_of(Trial(method=method, rate=rates[method], seed=seed), out, task, deadline)


class Turns(TrainerCallback):  # type: ignore[misc]
    """Lets two trainers, each in a thread, do their steps by turns, and times each step."""

    def __init__(self, mine: threading.Semaphore, other: threading.Semaphore) -> None:
        self._mine, self._other = mine, other
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._mine.acquire()
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)
        self._other.release()


def measure_speed(steps: int, out: Path) -> None:
    """Seconds per step of both trainers at K = 8, step by step in turn; written to speed.json."""
    task = Task()
    first, second = threading.Semaphore(1), threading.Semaphore(0)
    turns, threads = {}, []
    for method, mine, other in (("trl-grpo", first, second), ("trl-bolt", second, first)):
        trial = Trial(method=method, rate=1e-4, seed=0, steps=steps)
        trainer = task.trainer(trial, out / "speed", num_generations=METHODS["trl-grpo"], save_strategy="no")
        turns[method] = Turns(mine, other)
        trainer.add_callback(turns[method])
        threads.append(threading.Thread(target=trainer.train, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = {method: each.seconds for method, each in turns.items()}
    (out / "speed.json").write_text(json.dumps(seconds), encoding="utf-8")
    print(speed_line(out))


def speed_line(out: Path) -> str:
    """What ``speed.json`` says: the ratio of both times, with a 90 % interval from resampled pairs of steps."""
    seconds = json.loads((out / "speed.json").read_text(encoding="utf-8"))
    # The first step of each loads and compiles what later ones find.
    plain, bolt = (np.array(seconds[method][1:]) for method in METHODS)
    rng = np.random.default_rng(0)
    picks = rng.integers(plain.size, size=(2000, plain.size))
    low, high = np.quantile(bolt[picks].sum(1) / plain[picks].sum(1), [0.05, 0.95])
    return (
        f"{plain.mean():.2f} s a step of GRPOTrainer, {bolt.mean():.2f} s of BoltGRPOTrainer: "
        f"{bolt.sum() / plain.sum():.3f} ({low:.3f} – {high:.3f}), median of {plain.size} pairs "
        f"{np.median(bolt / plain):.3f}"
    )


def report(out: Path, picture: Path) -> Iterator[str]:
    """The table of the runs that are done, with the scores of the others so far, and a picture of the curves."""
    place = f"{TASK}/{BATCH}"
    found = {name.removeprefix("trl-"): curves for name, curves in read_curves(out).get(place, {}).items()}
    found = {name: curves for name, curves in found.items() if f"trl-{name}" in METHODS}
    yield from table(found) if "grpo" in found else _finals(found)
    draw(picture, {place: found})
    yield ""
    yield from tuning_table({m: s for m, s in read_tuning(out).get(place, {}).items() if m in METHODS})
    for part in sorted(out.glob(f"{place}/trl-*/*/*/curve.part.csv")):
        last = _read_curve(part)[-1]
        yield f"\nunfinished: {part.parent.relative_to(out)}, {100 * last['score']:.1f} % at step {last['step']:.0f}"
    if (out / "speed.json").exists():
        yield f"\n{speed_line(out)}"


def _finals(found: dict[str, Curves]) -> Iterator[str]:
    for name, curves in found.items():
        yield f"{name}: {100 * curves.finals().mean():.1f} %, {curves.seeds} seeds"


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: row[name] for name in ("prompt_id", "prompt", "answer")} for row in rows]


def _read_curve(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _write_curve(path: Path, rows: Sequence[dict[str, float]]) -> None:
    aside = path.with_suffix(".tmp")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    aside.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where curves are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3], help="learning rates tried")
    parser.add_argument("--fixed", nargs="*", default=[], metavar="METHOD=RATE", help="rates chosen elsewhere")
    parser.add_argument("--tuning-steps", type=int, default=STEPS, help=f"steps of the runs of {TUNING}")
    parser.add_argument("--minutes", type=float, help="end at the first checkpoint after so many")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--speed", type=int, metavar="STEPS", help="measure seconds per step, and train nothing else")
    parser.add_argument("--report", type=Path, metavar="PICTURE", help="print the table, draw curves, train nothing")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.report is not None:
        print("\n".join(report(out, arguments.report)))
        return
    if arguments.speed is not None:
        measure_speed(arguments.speed, out)
        return
    try:
        run(arguments, out, Deadline(arguments.minutes))
    except OutOfTimeError:
        sys.exit(NOT_DONE)


if __name__ == "__main__":
    main()
