"""Rewards that compare text: ``exact``, ``contains`` and ``regex``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bolt_ray.rewards.protocol import RewardInput, Unscored


def normalize(text: str, *, ignore_case: bool, ignore_space: bool) -> str:
    """``text`` as the comparison sees it: case folded, runs of white space made one blank, ends stripped."""
    if ignore_case:
        text = text.casefold()
    return " ".join(text.split()) if ignore_space else text


class ExactReward:
    """1.0 if the completion is the answer, else 0.0; unscored where the dataset has no answer."""

    batched = False

    def __init__(self, *, ignore_case: bool = False, ignore_space: bool = True) -> None:
        self._ignore_case = ignore_case
        self._ignore_space = ignore_space

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float | Unscored:
        if not item.answer:
            return Unscored("no_answer", "the row has no reference answer")
        return float(self._plain(item.completion) == self._plain(item.answer))

    def _plain(self, text: str) -> str:
        return normalize(text, ignore_case=self._ignore_case, ignore_space=self._ignore_space)


class ContainsReward:
    """Share of the wanted pieces of text the completion contains: 1.0 all, 0.0 none.

    Args:
        texts: the pieces; empty: the row's own answer is the one piece.
    """

    batched = False

    def __init__(self, *, texts: Sequence[str] = (), ignore_case: bool = True, ignore_space: bool = True) -> None:
        self._texts = tuple(texts)
        self._ignore_case = ignore_case
        self._ignore_space = ignore_space

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


class RegexReward:
    """1.0 if the pattern matches; with a group named ``answer``, if the last match's group is the answer.

    Args:
        pattern: a Python regular expression; ``.`` matches line ends.
        full: the whole completion must match, instead of a part of it.
    """

    batched = False

    def __init__(self, *, pattern: str, full: bool = False, ignore_case: bool = False) -> None:
        flags = re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG)
        self._pattern = re.compile(pattern, flags)
        self._full = full
        self._ignore_case = ignore_case

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
