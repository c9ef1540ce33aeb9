"""Reference answers scored against themselves: a wrong answer column would score every completion 0 in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.reward_set import RewardResult, RewardSet
from bolt_ray.rewards.settings import RewardSettings

NUM_EXAMPLES = 3
MIN_ROWS = 10
_ANSWER_CHARS = 60
_NOT_APPLIED = "no_reward"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCheck:
    """What a reward makes of a dataset's own answers.

    Attributes:
        reward, source: names of the reward and the dataset.
        right, total: answers that get the full reward, of those scored.
        examples: some that do not: where the row is, its answer and what it got.
    """

    reward: str
    source: str
    right: int
    total: int
    examples: tuple[str, ...]

    @property
    def mostly_wrong(self) -> bool:
        return 2 * self.right < self.total

    @property
    def is_conclusive(self) -> bool:
        """Whether enough were looked at to refuse a run."""
        return self.total >= MIN_ROWS

    def __str__(self) -> str:
        text = (
            f"{self.source}: {self.right:,} of {self.total:,} reference answers are right by their reward {self.reward}"
        )
        return text + "".join(f"\n  {example}" for example in self.examples)


def check_references(
    specs: Sequence[RewardSettings],
    rows: Sequence[RewardInput],
    *,
    place: Callable[[int], str],
    by_source: Mapping[str, Sequence[str]],
    eval_by_source: Mapping[str, Sequence[str]],
    startup_timeout_s: float,
) -> list[ReferenceCheck]:
    """Score rows' answers with the rewards that know how a right completion is written, each in its process.

    Args:
        specs: definite rewards.
        rows: the input of a completion of each row; its text is replaced.
        place: where the row of an index into ``rows`` is, for people.
        by_source, eval_by_source: as of `RewardSet`.
        startup_timeout_s: limit on the start of a reward process.

    Returns:
        one check for each dataset and reward; none for a reward that asks for no answer, or whose form is unknown.
    """
    checks = []
    for spec in specs:
        written = [(index, item, spec.right_completion(item)) for index, item in enumerate(rows)]
        asked = [(index, replace(item, completion=text)) for index, item, text in written if text is not None]
        if asked:
            rewards = RewardSet(
                specs=[spec],
                by_source=by_source,
                eval_by_source=eval_by_source,
                startup_timeout_s=startup_timeout_s,
            )
            checks += _check(spec, rewards, asked, place)
    return checks


def _check(
    spec: RewardSettings, rewards: RewardSet, rows: Sequence[tuple[int, RewardInput]], place: Callable[[int], str]
) -> list[ReferenceCheck]:
    rewards.start()
    try:
        results = rewards.score([item for _, item in rows])
    finally:
        rewards.close()
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for (index, item), result in zip(rows, results, strict=True):
        if isinstance(result, UnscoredReason) and result.kind == _NOT_APPLIED:
            continue
        name = item.dataset or item.source
        total[name] += 1
        got = f"no verdict ({result.detail or result.kind})" if isinstance(result, UnscoredReason) else ""
        if isinstance(result, RewardResult):
            value = result.parts[spec.part_name]
            got = "" if value >= 1.0 else f"{value:g}"
        right[name] += not got
        shown = examples.setdefault(name, [])
        if got and len(shown) < NUM_EXAMPLES:
            shown.append(f"{place(index)}: the answer {_short(item.answer)} gets {got}")
    return [
        ReferenceCheck(
            reward=spec.part_name,
            source=source,
            right=right[source],
            total=total[source],
            examples=tuple(examples[source]),
        )
        for source in total
    ]


def _short(answer: str) -> str:
    return repr(answer if len(answer) <= _ANSWER_CHARS else answer[:_ANSWER_CHARS] + "…")
