"""The ``llm_judge`` reward: a model behind an OpenAI-compatible endpoint grades each completion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.endpoint import Endpoint, EndpointError, EndpointSettings
from bolt_ray.rewards.protocol import RewardInput, Unscored

_PROMPT = (
    "Grade the answer to the question from 0 (wrong or useless) to 10 (right and complete).\n\n"
    "Question:\n{prompt}\n\nReference answer (may be empty):\n{answer}\n\nAnswer to grade:\n{completion}\n\n"
    "Reply with one line: Score: <number>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmJudgeSettings(EndpointSettings):
    """``type: llm_judge`` - asks a model behind an OpenAI-compatible endpoint; ``url`` as ``https://host/v1``."""

    always_within = (0.0, 1.0)

    model: str = setting(..., "name of the judge", min_length=1)
    prompt: str = setting(_PROMPT, "what it is asked; {prompt}, {completion} and {answer} are filled in")
    pattern: str = setting(
        r"[Ss]core:\s*(?P<score>-?\d+(?:\.\d+)?)",
        "where the judge's answer has its grade; the group score of the last match is read",
    )
    min_score: float = setting(0.0, "the grades are mapped from [min_score, max_score] to 0 … 1; outside: unscored")
    max_score: float = setting(10.0, "see min_score")
    max_tokens: int = setting(256, "length limit of the judge's answer", unit="tokens", ge=1)
    temperature: float = setting(0.0, "of the judge", ge=0, le=2)

    def __post_init__(self) -> None:
        EndpointSettings.__post_init__(self)
        if self.min_score >= self.max_score:
            raise SettingError("min_score", "must be below max_score")
        try:
            has_score = "score" in re.compile(self.pattern).groupindex
        except re.error as problem:
            raise SettingError("pattern", f"is not a regular expression: {problem}") from problem
        if not has_score:
            raise SettingError("pattern", "needs a group named score: (?P<score>...)")
        if "{completion}" not in self.prompt:
            raise SettingError("prompt", "must contain {completion}")


class LlmJudgeReward:
    """The judge's grade, mapped from [min_score, max_score] to [0, 1].

    Unscored: the endpoint fails, the answer has no grade, or the grade is outside its range.
    """

    settings = LlmJudgeSettings
    batched = True

    def __init__(self, settings: LlmJudgeSettings) -> None:
        self._endpoint = Endpoint(settings, path="/chat/completions")
        self._request = {
            "model": settings.model,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
        }
        self._prompt = settings.prompt
        self._pattern = re.compile(settings.pattern)
        self._range = (settings.min_score, settings.max_score)
        self._threads = ThreadPoolExecutor(max_workers=settings.concurrency)

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return list(self._threads.map(self._score_one, inputs))

    def _score_one(self, item: RewardInput) -> float | Unscored:
        messages = [{"role": "user", "content": self._question(item)}]
        try:
            answer = self._endpoint.post({**self._request, "messages": messages})
            text = answer["choices"][0]["message"]["content"]
        except EndpointError as problem:
            return Unscored("http", str(problem))
        except (KeyError, IndexError, TypeError):
            return Unscored("http", "the answer has no choices[0].message.content")
        grades = [match["score"] for match in self._pattern.finditer(str(text))]
        try:
            grade = float(grades[-1])
        except (IndexError, ValueError, TypeError):
            return Unscored("no_grade", f"no grade in the judge's answer {str(text)[:100]!r}")
        low, high = self._range
        if not low <= grade <= high:
            return Unscored("no_grade", f"grade {grade:g} is outside {low:g} … {high:g}")
        return (grade - low) / (high - low)

    def _question(self, item: RewardInput) -> str:
        if isinstance(item.prompt, str):
            prompt = item.prompt
        else:
            prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in item.prompt)
        fields = {"prompt": prompt, "completion": item.completion, "answer": item.answer}
        # In one pass: a completion that contains "{answer}" is not filled in again.
        return re.sub(r"\{(prompt|completion|answer)\}", lambda match: fields[match[1]], self._prompt)
