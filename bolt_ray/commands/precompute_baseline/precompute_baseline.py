"""``bolt-ray precompute-baseline``: what a model can do of every prompt, before it is trained.

Every prompt of ``datasets:`` gets a number of sampled completions, which the configured rewards score. The file that
comes out is what ``baseline.warm_start`` of a training run reads. Prompts that ``data.heldout_*`` keeps out of
training are among them: they are rows of the same data set, and another split needs no other file.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bolt_ray.actors.generator_pool import GeneratorPool
from bolt_ray.commands.precompute_baseline.prompt_scoring import PromptScorer, read_in_order
from bolt_ray.commands.precompute_baseline.score_file import PromptScores, ScoreFile, check_output
from bolt_ray.commands.precompute_baseline.score_fingerprint import score_fingerprint
from bolt_ray.commands.shared.gpus import resolve_here
from bolt_ray.commands.shared.inference import launch_generators, start_scorers
from bolt_ray.commands.shared.inputs import RunInputs, check_inputs, prepare_inputs, require_vllm
from bolt_ray.commands.shared.model_text import fit_to_tokenizer
from bolt_ray.commands.shared.prompts import open_store, prompt_doubts
from bolt_ray.commands.shared.ray_session import ray_session
from bolt_ray.commands.shared.resources import resource_map
from bolt_ray.commands.shared.say import say
from bolt_ray.config.own_code import with_own_rewards
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ModelError, RunError
from bolt_ray.data.store import PromptStore
from bolt_ray.engines.tokenizer import PromptTokenizer
from bolt_ray.rewards.unscored import check_unscored
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.interrupts import Interrupted, InterruptFlag, catch_interrupts

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 4096
ADAPTER_VERSION = 1
WATCHED_FROM = 64
"""Completions before which nothing is concluded from how many could not be scored."""

_LINE_EVERY_S = 5.0


def precompute_baseline(
    config: RunConfig,
    *,
    output: Path,
    num_samples: int,
    adapter: Path | None = None,
    limit: int | None = None,
    console: Console | None = None,
) -> None:
    """Run the whole of ``bolt-ray precompute-baseline``.

    Args:
        output: the file to write; beside it ``<output>.partial.jsonl`` keeps what is finished until all is.
        num_samples: completions per prompt.
        adapter: a LoRA adapter to put on the model.
        limit: only the first so many prompts.

    Raises:
        UserError: an input or the environment is not usable, or what was begun belongs to other settings.
        RunError: generating or scoring failed; finished prompts are kept.
        Interrupted: finished prompts are kept.
    """
    console = console or Console()
    output = output.absolute()
    check_output(output)
    require_vllm()
    check_inputs(config)
    config = resolve_here(_with_adapter(with_own_rewards(config), adapter))
    inputs = prepare_inputs(config, say=partial(say, console))
    config = fit_to_tokenizer(config, inputs.model_path)
    with (
        ray_session(config.cluster, groups=resource_map(config, learners=False)),
        catch_interrupts() as interrupts,
    ):
        run = _Precomputation(
            config=config,
            inputs=inputs,
            output=output,
            num_samples=num_samples,
            adapter=adapter,
            limit=limit,
            interrupts=interrupts,
            console=console,
        )
        run.run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Precomputation:
    """Opens what was begun, starts every part, and ends them in the reverse order."""

    config: RunConfig
    inputs: RunInputs
    output: Path
    num_samples: int
    adapter: Path | None
    limit: int | None
    interrupts: InterruptFlag
    console: Console

    def run(self) -> None:
        store = open_store(self.inputs.train, self.config)
        rows = distinct_rows(store)[: self.limit]
        fingerprint = score_fingerprint(
            self.config,
            store_address=store.address,
            model_path=self.inputs.model_path,
            adapter=self.adapter,
            num_samples=self.num_samples,
        )
        file = ScoreFile(self.output, fingerprint=fingerprint)
        try:
            missing = rows[~np.isin(rows, file.done_rows)]
            say(self.console, f"{store.report()}; {rows.size:,} prompts × {self.num_samples} completions")
            if len(file):
                say(self.console, f"Going on: {len(file):,} prompts are done already ({file.partial})")
            left_out = self._score(store, missing, file) if missing.size else []
            self._finish(store, file, left_out)
        except BaseException as error:
            why = "Interrupted: " if isinstance(error, Interrupted | KeyboardInterrupt) else ""
            if len(file):
                say(self.console, f"{why}{len(file):,} prompts are kept in {file.partial}; the same command goes on")
            elif why:
                say(self.console, f"{why}no prompt was finished")
            raise
        finally:
            file.close()

    def _score(self, store: PromptStore, rows: NDArray[np.int64], file: ScoreFile) -> list[str]:
        """Do ``rows``; returns what was left out, in sentences."""
        config = self.config
        tokenize = PromptTokenizer.of(self.inputs.model, config.model)
        for doubt in prompt_doubts(store, tokenize):
            say(self.console, f"Warning: {doubt}")
        with ExitStack() as stack:
            generators = launch_generators(config, self.inputs)
            stack.callback(generators.close)
            scorers = start_scorers(config, self.inputs)
            stack.callback(scorers.close)
            self._bring_up(generators)
            skipped: Counter[str] = Counter()
            prompts = read_in_order(
                store,
                rows,
                tokenize=tokenize,
                max_tokens=min(
                    config.data.max_prompt_tokens, self.inputs.context_tokens - config.sampling.max_new_tokens
                ),
                skip_unusable=config.data.on_long_prompt == "skip",
                timeout_s=config.deadlines.prompts_s,
                skipped=skipped,
            )
            stack.callback(prompts.close)
            service = CompletionService(generators=generators, scorers=scorers, opened=tokenize.opened)
            total = len(file) + rows.size
            most_generators = config.cluster.max_generators or config.cluster.num_generators
            display = stack.enter_context(_Display(service=service, total=total, done=len(file), console=self.console))
            scorer = PromptScorer(
                service=service,
                prompts=prompts,
                num_samples=self.num_samples,
                seed=config.seed,
                max_in_flight=min(MAX_IN_FLIGHT, 2 * config.generator.max_num_seqs * most_generators),
                skip_truncated=bool(config.baseline.skip_truncated),
                stall_s=config.deadlines.generation_s + config.deadlines.startup_s,
                save=file.append,
                check_scores=partial(
                    check_unscored,
                    max_unscored_fraction=config.scoring.max_unscored_fraction,
                    min_completions=WATCHED_FROM,
                ),
                check=self.interrupts.check,
                on_progress=display.prompt_done,
            )
            scorer.run()
        return _left_out(scorer, skipped)

    def _bring_up(self, generators: GeneratorPool) -> None:
        started = time.monotonic()
        generators.wait_ready(idle=self.interrupts.check, say=partial(say, self.console))
        if self.adapter is not None:
            path = str(self.adapter.absolute())
            generators.update_adapter(path, ADAPTER_VERSION, timeout_s=self.config.deadlines.sync_s)
        say(self.console, f"All processes are up after {time.monotonic() - started:.0f} s")

    def _finish(self, store: PromptStore, file: ScoreFile, left_out: list[str]) -> None:
        for line in left_out:
            say(self.console, line)
        if len(file) == 0:
            raise RunError(f"not one prompt has a score, there is nothing to write: {'; '.join(left_out)}")
        summary = file.summary(reward_range=self.config.baseline.scaled_from)
        file.finish(
            {
                "model": self.config.model.name_or_path + (f" + {self.adapter}" if self.adapter else ""),
                "dataset": ", ".join(source.name for source in store.sources),
                "num_samples": self.num_samples,
                "n_prompts": summary.prompts,
                "mean_v_hat": summary.mean_v_hat,
                "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        say(
            self.console,
            f"{self.output}: {summary.prompts:,} prompts, {summary.scores:,} scores, mean v̂ {summary.mean_v_hat:.3f}. "
            f"Train with it: baseline.warm_start={self.output}",
        )


class _Display:
    """A progress bar on a terminal; one line every few seconds where there is none."""

    def __init__(self, *, service: CompletionService, total: int, done: int, console: Console) -> None:
        self._service = service
        self._console = console
        self._total, self._done = total, done
        self._scores, self._sum = 0, 0.0
        self._started = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]precompute"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("precompute", total=total, completed=done, numbers="")

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def prompt_done(self, entry: PromptScores) -> None:
        self._done += 1
        self._scores += len(entry.scores)
        self._sum += sum(entry.scores)
        now = time.monotonic()
        speed = self._service.generated_tokens / max(now - self._started, 1e-9)
        mean = self._sum / self._scores if self._scores else 0.0
        numbers = f"mean score {mean:.3f}  {speed:,.0f} tok/s"
        self._bar.update(self._task, completed=self._done, numbers=numbers)
        if not self._console.is_terminal and (now - self._last_line > _LINE_EVERY_S or self._done == self._total):
            self._last_line = now
            self._console.print(f"{self._done:,}/{self._total:,} prompts  {numbers}", highlight=False, soft_wrap=True)


def distinct_rows(store: PromptStore) -> NDArray[np.int64]:
    """int64, ascending: the first row of every key. Rows of one key are one prompt, and share its baseline."""
    _, first = np.unique(np.asarray(store.key_hashes()), return_index=True)
    return np.sort(first).astype(np.int64)


def _with_adapter(config: RunConfig, adapter: Path | None) -> RunConfig:
    """The config with engines that serve ``adapter``, or plain weights without one.

    Raises:
        ModelError: there is no adapter in that directory.
    """
    changes: dict[str, Any] = {"use_peft": adapter is not None}
    if adapter is not None:
        try:
            settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
            changes["lora_r"] = max(int(rank) for rank in (settings["r"], *settings.get("rank_pattern", {}).values()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"--adapter {adapter}: not the directory of a LoRA adapter ({error})") from None
    return config.model_copy(update={"model": replace(config.model, **changes)})


def _left_out(scorer: PromptScorer, skipped: Counter[str]) -> list[str]:
    """What is not in the file, in sentences."""
    lines = [f"{count:,} prompts left out: {reason.replace('_', ' ')}" for reason, count in skipped.items()]
    if scorer.unscored:
        reasons = "; ".join(f"{count:,} × {reason}" for reason, count in scorer.unscored.most_common())
        lines.append(f"{scorer.unscored.total():,} completions could not be scored and are left out: {reasons}")
    if scorer.without_score:
        lines.append(f"{scorer.without_score:,} prompts have no scored completion and are left out")
    return lines
