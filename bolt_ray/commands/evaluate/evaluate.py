"""``bolt-ray evaluate``: any model on any held-out problems, by the same code as evaluation during training.

per model:  generators ─▶ Evaluator (the trainer's) ─▶ <output>/<model>.jsonl and .parquet
in the end: tables, <output>/summary.json, and the models compared problem by problem
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bolt_ray.actors.scorer_pool import ScorerPool
from bolt_ray.commands.evaluate.predictions import write_predictions
from bolt_ray.commands.evaluate.report import EvaluationReport, compare_with_first
from bolt_ray.commands.model_source import ModelSource, find_model
from bolt_ray.commands.shared.gpus import resolve_here
from bolt_ray.commands.shared.inference import launch_generators, math_equality, start_scorers
from bolt_ray.commands.shared.inputs import RunInputs, check_inputs, prepare_inputs, require_vllm
from bolt_ray.commands.shared.model_text import fit_to_tokenizer
from bolt_ray.commands.shared.prompts import heldout_problems, open_store
from bolt_ray.commands.shared.ray_session import ray_session
from bolt_ray.commands.shared.references import verify_references
from bolt_ray.commands.shared.resources import resource_map
from bolt_ray.config.own_code import with_own_rewards
from bolt_ray.config.resolve import eval_sampling
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.evaluation.summary import EvaluationResult
from bolt_ray.core.records import DrawnPrompt, UnscoredCompletion
from bolt_ray.data.ingest.read_plan import preset_of
from bolt_ray.data.settings import TASK_PREFIX, ColumnSettings, DatasetSettings
from bolt_ray.engines.tokenizer import PromptTokenizer
from bolt_ray.rewards.unscored import check_unscored, count_reasons
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.evaluator import Evaluator
from bolt_ray.training.interrupts import Interrupted, InterruptFlag, catch_interrupts


def evaluate(
    config: RunConfig,
    *,
    models: Sequence[str | Path] = (),
    dataset: str | None = None,
    k: int | None = None,
    output: Path | None = None,
    compare: bool = False,
    console: Console | None = None,
) -> dict[str, EvaluationResult]:
    """Evaluate models one after another on held-out problems; predictions and a summary are written.

    Args:
        config: the problems (``eval``, ``datasets``), rewards and sampling.
        models: runs, checkpoints, models or adapters; none for the config's own model.
        dataset: a dataset in place of the config's held-out problems, read the way its first one is.
        k: of pass@k and maj@k; None for all samples.
        output: a new directory; None for ``evaluations/<name>-<time>``.
        compare: every model against the first; with one, against the config's own.
        console: what progress and tables are printed on; default: standard output.

    Returns:
        Results by the models' labels, in the order asked for.

    Raises:
        UserError: a model, a dataset or the environment is not usable; nothing was generated.
        UnhealthyTrainingError: more completions went unscored than ``scoring.max_unscored_fraction``.
        Interrupted: by a signal; the models that were finished are written.
    """
    console = console or Console()
    require_vllm()
    config = resolve_here(heldout_only(with_own_rewards(config), dataset))
    _check_numbers(config, k=k)
    sources = _sources(config, models, compare=compare)
    for source in sources:
        check_inputs(_of_model(config, source))
    output = _new_output(output, name=config.name)
    results: dict[str, EvaluationResult] = {}
    interrupted: Interrupted | None = None
    with (
        ray_session(config.cluster, groups=resource_map(config, learners=False)),
        catch_interrupts() as interrupts,
        ExitStack() as stack,
    ):
        job = _Job(
            config=config,
            k=k,
            interrupts=interrupts,
            console=console,
            stack=stack,
        )
        try:
            for source in sources:
                results[source.label] = job.evaluate(source)
                write_predictions(results[source.label], output, name=_file_name(source.label))
        except Interrupted as signal:
            interrupted = signal
            console.print(f"interrupted: {len(results)} of {len(sources)} models done", highlight=False)
    if results:
        compared = compare_with_first(results) if compare else {}
        report = EvaluationReport(results=results, comparisons=compared, sources=sources)
        report.write(output / "summary.json", settings=asdict(config.eval))
        report.print(console)
        console.print(f"Predictions: {output}", highlight=False, markup=False, soft_wrap=True)
    if interrupted is not None:
        raise interrupted
    for result in results.values():
        _check_scored(result, limit=config.scoring.max_unscored_fraction)
    return results


class _Job:
    """One evaluation's processes: the scorers stay, the generators are started anew for every model."""

    def __init__(
        self,
        *,
        config: RunConfig,
        k: int | None,
        interrupts: InterruptFlag,
        console: Console,
        stack: ExitStack,
    ) -> None:
        self._config = config
        self._k = k
        self._interrupts = interrupts
        self._console = console
        self._stack = stack
        self._scorers: ScorerPool | None = None
        self._same_answers = math_equality(config)
        stack.callback(self._same_answers.close)

    def evaluate(self, source: ModelSource) -> EvaluationResult:
        config = _of_model(self._config, source)
        say = partial(self._console.print, highlight=False, markup=False, soft_wrap=True)
        inputs = prepare_inputs(config, say=say)
        config = fit_to_tokenizer(config, inputs.model_path)
        tokenize = PromptTokenizer.of(str(inputs.model_path), config.model)
        generators = launch_generators(config, inputs)
        try:
            if self._scorers is None:
                self._scorers = start_scorers(config, inputs)
                self._stack.callback(self._scorers.close)
            problems = read_problems(config, inputs, tokenize=tokenize, say=say)
            first = {problem.prompt.source: problem.prompt for problem in reversed(problems)}
            for doubt in tokenize.doubts(list(first.values())):
                say(f"Warning: {doubt}")
            say(f"{source.label}: {len(problems):,} problems × {config.eval.num_samples}")
            generators.wait_ready(idle=self._interrupts.check, say=say)
            if source.adapter is not None:
                generators.update_adapter(str(source.adapter), 1, timeout_s=config.deadlines.sync_s)
            service = CompletionService(generators=generators, scorers=self._scorers, opened=tokenize.opened)
            return self._run(config, service, problems)
        finally:
            generators.close()

    def _run(self, config: RunConfig, service: CompletionService, problems: Sequence[DrawnPrompt]) -> EvaluationResult:
        evaluator = Evaluator(
            service=service,
            problems=problems,
            sampling=eval_sampling(config),
            settings=config.eval,
            stall_s=config.deadlines.generation_s + config.deadlines.startup_s,
            k=self._k,
            same_answers=self._same_answers,
        )
        bar = Progress(
            TextColumn("evaluate"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        task = bar.add_task("evaluate", total=len(problems) * config.eval.num_samples)

        def pump(timeout_s: float) -> None:
            self._interrupts.check()
            service.pump(timeout_s)

        with bar:
            return evaluator.run(pump=pump, on_progress=lambda done, total: bar.update(task, completed=done))


def read_problems(
    config: RunConfig, inputs: RunInputs, *, tokenize: PromptTokenizer, say: Callable[[str], None]
) -> list[DrawnPrompt]:
    """The held-out problems of a config, tokenized: those that training evaluates on; what is left out is said.

    Raises:
        ConfigError: the config holds none out, or most of their answers are wrong by their own reward.
        DataError: a dataset cannot be used, or a problem is too long and may not be left out.
    """
    rows = None
    if inputs.heldout:
        store = open_store(inputs.heldout, config)
        rows = np.arange(store.num_rows, dtype=np.int64)
    else:
        store = open_store(inputs.train, config)
        _, rows = store.split_heldout(fraction=config.data.heldout_fraction, size=config.data.heldout_size)
    if len(rows) == 0:
        raise ConfigError(
            "there are no held-out problems to evaluate on; name some: --dataset PATH, eval.datasets, "
            "data.heldout_size or data.heldout_fraction"
        )
    max_new_tokens = config.eval.max_new_tokens or config.sampling.max_new_tokens
    rows = rows[: config.eval.num_problems]
    verify_references(store, rows, config, inputs, evaluation=True, say=say)
    return heldout_problems(
        store,
        rows,
        tokenize=tokenize,
        max_tokens=min(config.data.max_prompt_tokens, inputs.context_tokens - max_new_tokens),
        on_long_prompt=config.data.on_long_prompt,
        say=say,
    )


def heldout_only(config: RunConfig, dataset: str | None) -> RunConfig:
    """The config as evaluation needs it: training data that nothing is held out of need not be there.

    Args:
        dataset: the one held-out dataset, with the columns, template and reward of the config's first, but columns and
            prompt of its own where its name is known; None for those of the config.

    Raises:
        ConfigError: it is made, and nothing says how large.
    """
    chosen = config.eval.datasets
    if dataset is not None:
        first = (chosen or config.datasets)[0]
        elsewhere = ("split", "config_name", "revision", "data_files", "source", "weight", "format", "delimiter")
        made = dataset.startswith(TASK_PREFIX)
        if made and first.size is None:
            raise ConfigError(f"--dataset {dataset} is made: name it in eval.datasets, with how many problems (size)")
        own = None if made else preset_of(DatasetSettings(name=dataset))
        changed: dict[str, Any] = {"name": dataset, "preset": own or preset_of(first), **dict.fromkeys(elsewhere)}
        if own is not None:
            changed |= {"columns": ColumnSettings(), "prompt_template": None}
        if dataset != first.name:
            changed |= {"options": {}} if made else {"size": None, "seed": 0, "options": {}}
        chosen = (replace(first, **changed),)
    if not chosen:
        return config
    evaluation = replace(config.eval, datasets=chosen)
    return config.model_copy(update={"eval": evaluation, "datasets": chosen})


def _check_numbers(config: RunConfig, *, k: int | None) -> None:
    samples = config.eval.num_samples
    if k is not None and not 1 <= k <= samples:
        raise ConfigError(f"--k {k} must lie between 1 and the samples per problem, {samples}; raise --samples")


def _sources(config: RunConfig, models: Sequence[str | Path], *, compare: bool) -> list[ModelSource]:
    """The models to evaluate, with labels that differ."""
    own = config.model.name_or_path
    names = [str(model) for model in models] or [own]
    if compare and len(names) == 1:
        names = [own, *names]
    found = [find_model(name) for name in names]
    if compare and all((s.model, s.adapter) == (found[0].model, found[0].adapter) for s in found):
        raise ConfigError("--compare needs two different models; name them: --model A --model B")
    labels: list[str] = []
    for source in found:
        label, number = source.label, 1
        while label in labels:
            number += 1
            label = f"{source.label}-{number}"
        labels.append(label)
    return [replace(source, label=label) for source, label in zip(found, labels, strict=True)]


def _of_model(config: RunConfig, source: ModelSource) -> RunConfig:
    """The config with ``source`` as its model."""
    changed: dict[str, Any] = {"name_or_path": source.model, "use_peft": source.adapter is not None}
    if source.adapter is not None:
        changed["lora_r"] = source.lora_rank
    return config.model_copy(update={"model": replace(config.model, **changed)})


def _new_output(output: Path | None, *, name: str) -> Path:
    path = output or Path("evaluations") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise ConfigError(f"--output {path}: cannot be written ({error.strerror})") from None
    if taken:
        raise ConfigError(f"--output {path} is not empty, and nothing is overwritten; name a new directory")
    return path


def _check_scored(result: EvaluationResult, *, limit: float) -> None:
    reasons = count_reasons(
        outcome.reason for group in result.outcomes for outcome in group if isinstance(outcome, UnscoredCompletion)
    )
    num_scored = result.overall.num_completions - sum(reasons.values())
    check_unscored(num_scored=num_scored, reasons=reasons, max_unscored_fraction=limit)


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.\-]", "_", label) or "model"
