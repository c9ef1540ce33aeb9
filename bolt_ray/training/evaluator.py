"""Held-out evaluation through the same generators and scorers as training. The baseline never sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bolt_ray.core.evaluation.summary import EvaluationResult, Success, summarize
from bolt_ray.core.evaluation.voting import SameAnswers
from bolt_ray.core.records import DrawnPrompt, GenerationRequest, Outcome
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.training.completions import POLL_S, CompletionService, request_seed
from bolt_ray.training.settings import EvalSettings
from bolt_ray.training.stall_watch import StallWatch


class Evaluator:
    """Evaluates the generators' current weights on a fixed list of problems."""

    def __init__(
        self,
        *,
        service: CompletionService,
        problems: Sequence[DrawnPrompt],
        settings: EvalSettings,
        sampling: SamplingSettings,
        stall_s: float,
        same_answers: SameAnswers,
        k: int | None = None,
    ) -> None:
        """``k``: of pass@k and maj@k, all samples if None."""
        self._service = service
        self._problems = list(problems)
        self._sampling = sampling
        self._num_samples = settings.num_samples
        self._seed = settings.seed
        self._success = Success(reward=settings.success_reward, part=settings.success_part)
        self._same_answers = same_answers
        self._stall_s = stall_s
        self._k = k

    def run(
        self,
        *,
        pump: Callable[[float], None],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> EvaluationResult:
        """Generate and score ``num_samples`` completions of every problem; ``pump`` keeps training moving.

        Raises:
            StallError: nothing got on within the deadline.
        """
        requests = self._requests()
        n = self._num_samples
        prompts = [drawn.prompt for drawn in self._problems]
        self._service.submit(requests, [prompt for prompt in prompts for _ in range(n)], self._sampling)
        found: dict[int, Outcome] = {}
        watch = StallWatch(self._service, stall_s=self._stall_s)
        while len(found) < len(requests):
            pump(POLL_S)
            arrived = self._service.poll("eval")
            found.update((outcome.request_id, outcome) for outcome in arrived)
            if arrived:
                on_progress(len(found), len(requests))
            what = f"completions of an evaluation, {len(found):,} of {len(requests):,} are there"
            watch.look(arrived=len(found), what=what)
        ordered = [found[request.request_id] for request in requests]
        groups = [ordered[i : i + n] for i in range(0, len(ordered), n)]
        return summarize(prompts, groups, success=self._success, k=self._k, same_answers=self._same_answers)

    def _requests(self) -> list[GenerationRequest]:
        """Problem by problem; the same seeds at every evaluation, so that scores compare."""
        token_ids = [drawn.token_ids for drawn in self._problems for _ in range(self._num_samples)]
        return [
            GenerationRequest(
                request_id=-1 - number, kind="eval", token_ids=tokens, seed=request_seed(self._seed, number)
            )
            for number, tokens in enumerate(token_ids)
        ]
