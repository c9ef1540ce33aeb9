"""Known datasets: their columns, how the answer is found in them, and the prompt they are asked with.

GSM8K (arXiv 2110.14168): columns question, answer; the final number follows ``####``.
MATH (arXiv 2103.03874): columns problem, solution; the final answer stands in ``\\boxed{}``. The MATH-500
release has the extracted answer in a column of its own, which is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

STEP_BY_STEP = "\n\nReason step by step, and put the final answer within \\boxed{{}}."


def gsm8k_answer(solution: str) -> str:
    """The number after the last ``####``, thousands separators removed.

    Raises:
        ValueError: there is no ``####``, or nothing after it.
    """
    _, mark, tail = solution.rpartition("####")
    answer = tail.strip().replace(",", "")
    if not mark or not answer:
        raise ValueError("no answer after '####'")
    return answer


def boxed_answer(solution: str) -> str:
    """The content of the last ``\\boxed{...}`` (or ``\\fbox{...}``, ``\\boxed 5``), braces balanced.

    Raises:
        ValueError: there is no box, or its braces do not close.
    """
    start, command = max((solution.rfind(command), command) for command in ("\\boxed", "\\fbox"))
    if start < 0:
        raise ValueError("no \\boxed{...} in it")
    rest = solution[start + len(command) :].lstrip()
    if not rest.startswith("{"):
        words = rest.split()
        if not words:
            raise ValueError("nothing after \\boxed")
        return words[0].rstrip("$.")
    depth = 0
    for position, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:position].strip()
    raise ValueError("the braces of \\boxed{...} do not close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How the rows of a known dataset are read.

    Attributes:
        prompt: column of the prompt.
        answer: column of the finished answer, taken as it is where a row has that column.
        solution: column the answer is extracted from; None if it needs no extraction.
        extract: finds the answer in the solution; ValueError if it is not there.
        template: prompt template, or None for the prompt as it stands.
    """

    prompt: str
    answer: str | None = None
    solution: str | None = None
    extract: Callable[[str], str] | None = None
    template: str | None = None


PRESETS: dict[str, Preset] = {
    "gsm8k": Preset(prompt="question", solution="answer", extract=gsm8k_answer, template="{question}" + STEP_BY_STEP),
    "math": Preset(
        prompt="problem",
        answer="answer",
        solution="solution",
        extract=boxed_answer,
        template="{problem}" + STEP_BY_STEP,
    ),
    "arithmetic": Preset(prompt="prompt", answer="answer"),
}


def preset_names() -> list[str]:
    return list(PRESETS)


KNOWN_NAMES: dict[str, tuple[str, str | None]] = {
    "gsm8k": ("gsm8k", "main"),
    "MATH-500": ("math", None),
    "competition_math": ("math", None),
    "hendrycks_math": ("math", None),
}
"""Last part of a Hugging Face name -> (preset, configuration) used where none is given."""
