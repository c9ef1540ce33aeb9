"""The ``llm_judge`` reward: a model behind an OpenAI-compatible endpoint grades each completion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bolt_ray.rewards.endpoint import Endpoint, EndpointError
from bolt_ray.rewards.protocol import RewardInput, Unscored


class LlmJudgeReward:
    """The judge's grade, mapped from [min_score, max_score] to [0, 1].

    Unscored: the endpoint fails, the answer has no grade, or the grade is outside its range.

    Args:
        url: base of the API, as ``https://host/v1``; ``/chat/completions`` is added.
        model: the judge.
        prompt: ``{prompt}``, ``{completion}`` and ``{answer}`` are filled in, other braces stay.
        pattern: the group ``score`` of its last match in the judge's answer is the grade.
        min_score, max_score: range of the grades.
        max_tokens, temperature: the judge's sampling.
        api_key_env, request_timeout_s, max_retries, backoff_s: see :class:`Endpoint`.
        concurrency: requests in flight at a time.
    """

    batched = True

    def __init__(
        self,
        *,
        url: str,
        model: str,
        prompt: str,
        pattern: str,
        min_score: float,
        max_score: float,
        max_tokens: int,
        temperature: float,
        api_key_env: str | None = None,
        request_timeout_s: float = 30.0,
        max_retries: int = 4,
        backoff_s: float = 0.5,
        concurrency: int = 8,
    ) -> None:
        self._endpoint = Endpoint(
            url=f"{url.rstrip('/')}/chat/completions",
            api_key_env=api_key_env,
            request_timeout_s=request_timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
        )
        self._request = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
        self._prompt = prompt
        self._pattern = re.compile(pattern)
        self._range = (min_score, max_score)
        self._threads = ThreadPoolExecutor(max_workers=concurrency)

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
