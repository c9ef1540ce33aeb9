"""Rewards that compare text: ``exact``, ``contains`` and ``regex``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.settings import RewardSettings


def normalize(text: str, *, ignore_case: bool, ignore_space: bool) -> str:
    """``text`` as the comparison sees it: case folded, runs of white space made one blank, ends stripped."""
    if ignore_case:
        text = text.casefold()
    return " ".join(text.split()) if ignore_space else text


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactSettings(RewardSettings):
    """``type: exact`` - 1 if the completion is the answer."""

    shares_process = True
    always_within = (0.0, 1.0)

    ignore_case: bool = setting(False, "compare without regard to case")
    ignore_space: bool = setting(True, "runs of white space count as one blank, those at the ends not at all")

    def right_completion(self, item: RewardInput) -> str | None:
        return item.answer


class ExactReward:
    """1.0 if the completion is the answer, else 0.0; unscored where the dataset has no answer."""

    settings = ExactSettings
    batched = False

    def __init__(self, settings: ExactSettings) -> None:
        self._ignore_case = settings.ignore_case
        self._ignore_space = settings.ignore_space

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float | Unscored:
        if not item.answer:
            return Unscored("no_answer", "the row has no reference answer")
        return float(self._plain(item.completion) == self._plain(item.answer))

    def _plain(self, text: str) -> str:
        return normalize(text, ignore_case=self._ignore_case, ignore_space=self._ignore_space)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainsSettings(RewardSettings):
    """``type: contains`` - share of ``texts`` found in the completion."""

    shares_process = True
    always_within = (0.0, 1.0)

    texts: tuple[str, ...] = setting((), "the wanted pieces of text; none: the row's answer is the one piece")
    ignore_case: bool = setting(True, "compare without regard to case")
    ignore_space: bool = setting(True, "runs of white space count as one blank")

    def __post_init__(self) -> None:
        RewardSettings.__post_init__(self)
        if not all(self.texts):
            raise SettingError("texts", "has an empty text, which every completion contains")

    def right_completion(self, item: RewardInput) -> str | None:
        return None if self.texts else item.answer


class ContainsReward:
    """Share of the wanted pieces of text the completion contains: 1.0 all, 0.0 none."""

    settings = ContainsSettings
    batched = False

    def __init__(self, settings: ContainsSettings) -> None:
        self._texts = tuple(settings.texts)
        self._ignore_case = settings.ignore_case
        self._ignore_space = settings.ignore_space

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float | Unscored:
        wanted = self._texts or ((item.answer,) if item.answer else ())
        if not wanted:
            return Unscored("no_answer", "the row has no reference answer and `texts` is empty")
        completion = self._plain(item.completion)
        return sum(self._plain(text) in completion for text in wanted) / len(wanted)

    def _plain(self, text: str) -> str:
        return normalize(text, ignore_case=self._ignore_case, ignore_space=self._ignore_space)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexSettings(RewardSettings):
    """``type: regex`` - 1 if ``pattern`` matches; with a group named ``answer``, if that group is the row's answer."""

    shares_process = True
    always_within = (0.0, 1.0)

    pattern: str = setting(..., "a Python regular expression; . matches line ends", min_length=1)
    full: bool = setting(False, "the whole completion must match, instead of a part of it")
    ignore_case: bool = setting(False, "match and compare without regard to case")

    def __post_init__(self) -> None:
        RewardSettings.__post_init__(self)
        try:
            re.compile(self.pattern)
        except re.error as problem:
            raise SettingError("pattern", f"is not a regular expression: {problem}") from problem


class RegexReward:
    """1.0 if the pattern matches; with a group named ``answer``, if the last match's group is the answer."""

    settings = RegexSettings
    batched = False

    def __init__(self, settings: RegexSettings) -> None:
        flags = re.DOTALL | (re.IGNORECASE if settings.ignore_case else re.NOFLAG)
        self._pattern = re.compile(settings.pattern, flags)
        self._full = settings.full
        self._ignore_case = settings.ignore_case

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float | Unscored:
        if self._full:
            whole = self._pattern.fullmatch(item.completion)
            matches = [whole] if whole else []
        else:
            matches = list(self._pattern.finditer(item.completion))
        if "answer" not in self._pattern.groupindex:
            return float(bool(matches))
        if not item.answer:
            return Unscored("no_answer", "the pattern has a group `answer`, the row has no reference answer")
        if not matches:
            return 0.0
        found = matches[-1]["answer"] or ""
        return float(self._plain(found) == self._plain(item.answer))

    def _plain(self, text: str) -> str:
        return normalize(text, ignore_case=self._ignore_case, ignore_space=True)
