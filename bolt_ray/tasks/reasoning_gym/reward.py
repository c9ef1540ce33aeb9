"""The ``reasoning_gym`` reward: the task's own scorer, asked about the completion's answer.

Some scorers of the library hand the answer to ``eval`` or to sympy's parser, which is built on it. An answer that could
call anything is therefore no answer to these.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bolt_ray.core.evaluation.answers import last_boxed, last_tagged
from bolt_ray.core.settings import setting
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.settings import RewardSettings
from bolt_ray.tasks.reasoning_gym.library import Task, make_task, require_library

_RIGHT = 1.0 - 1e-9
_RUNS_SYMPY = re.compile(r"\b(?:parse_expr|sympify)\s*\(")
_RUNS_PYTHON = re.compile(r"\b(?:eval|exec)\s*\(")
# What text needs to reach code: an attribute or name of Python's own, a text inside the text, or a call.
_REACHES = re.compile(r"__|[\"'\\`:;@=#]")
# Compared with it nothing is false, and a scorer that takes the smaller of 1 and it gives 1.
_NAN = re.compile(r"(?i)(?<![a-z])nan(?![a-z])")
_CALL = re.compile(r"(\w*)\s*\(")
_FUNCTIONS = frozenset(
    "sin cos tan sec csc cot asin acos atan sinh cosh tanh exp log ln sqrt Abs abs Integer Rational Integral".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningGymSettings(RewardSettings):
    """``type: reasoning_gym`` - the own scorer of a task of the library reasoning-gym."""

    always_within = (0.0, 1.0)

    strict: bool = setting(
        False, "only a full score counts, as 1; the scorers give something for an answer of the right form, too"
    )

    def right_completion(self, item: RewardInput) -> str | None:
        return f"<answer>{item.answer}</answer>" if item.answer else None


class ReasoningGymReward:
    """What the task's scorer gives for the completion's answer, from 0 to 1.

    The answer is what the last ``<answer>…</answer>`` holds, else the last ``\\boxed{…}``, else the whole completion,
    unless the length limit cut that off; then there is none, which is worth 0.

    Unscored: the row is not one of a reasoning_gym data set, or its task is not known to the installed library.
    """

    settings = ReasoningGymSettings
    batched = False

    def __init__(self, settings: ReasoningGymSettings) -> None:
        require_library()
        self._strict = settings.strict
        self._tasks: dict[str, Task] = {}

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float | Unscored:
        row = item.metadata
        if not ("task" in row and isinstance(row.get("options"), dict) and isinstance(row.get("metadata"), dict)):
            return Unscored(
                "wrong_row", "the row is not of a reasoning_gym data set; name this reward in the entry of those alone"
            )
        key = json.dumps([row["task"], row["options"]], sort_keys=True)
        if key not in self._tasks:
            self._tasks[key] = make_task(str(row["task"]), seed=0, options=row["options"])
        task = self._tasks[key]
        answer = answer_of(item.prefill + item.completion, truncated=item.truncated)
        if answer is None or not _is_harmless(answer, task) or (_NAN.search(answer) and answer != item.answer):
            return 0.0
        entry = {"question": item.prompt, "answer": item.answer or None, "metadata": row["metadata"]}
        try:
            value = min(1.0, max(0.0, float(task.score_answer(answer, entry))))
        except Exception:  # noqa: BLE001 - many scorers of the library raise at an answer of another form: it is wrong
            return 0.0
        return float(value >= _RIGHT) if self._strict else value


def answer_of(completion: str, *, truncated: bool) -> str | None:
    """The text that is scored; None where there is none."""
    tagged = last_tagged(completion)
    found = last_boxed(completion) if tagged is None else tagged
    if found is None and not truncated:
        found = completion
    return found.strip() if found and found.strip() else None


def _is_harmless(answer: str, task: Task) -> bool:
    """Whether the task's scorer may have the answer: it evaluates none, or none that could call anything."""
    source = inspect.getsource(type(task).score_answer)
    if _RUNS_SYMPY.search(source):
        return calls_nothing(answer)
    return not _RUNS_PYTHON.search(source) or calls_nothing(answer) or _is_literal(answer)


def calls_nothing(answer: str) -> bool:
    """Whether evaluating an answer, as Python or by sympy, calls nothing but functions of mathematics."""
    if _REACHES.search(answer):
        return False
    for call in _CALL.finditer(answer):
        name, before = call.group(1), answer[: call.start()].rstrip()[-1:]
        if name:
            if name not in _FUNCTIONS and not name.isdigit():
                return False
        elif before and before in ")]}.":
            return False
    return True


def _is_literal(answer: str) -> bool:
    try:
        ast.literal_eval(answer)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True
