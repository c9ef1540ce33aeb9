"""Known datasets: their columns, how the answer is found in them, and the prompt they are asked with.

GSM8K (arXiv 2110.14168): columns question, answer; the final number follows ``####``.
MATH (arXiv 2103.03874): columns problem, solution; the final answer stands in ``\\boxed{}``. The MATH-500 and the
12,000/500 releases have the extracted answer in a column of its own, which is taken as it is.
DAPO-Math-17k (arXiv 2503.14476): verl's columns; the published file repeats every prompt about a hundred times. Its
``-Processed`` release has plain prompts without instruction, and the answer also in ``solution``.
AIME: problem and answer under several spellings; some releases have the answer only as ``\\boxed{}`` in the solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

STEP_BY_STEP = "\n\nReason step by step, and put the final answer within \\boxed{}."


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
        prompts: columns of the prompt; the first that a row has is taken.
        answers: columns of the finished answer, taken as it is where a row has one.
        solutions: columns the answer is extracted from.
        extract: finds the answer in a solution, ValueError if it is not there; None if none needs extraction.
        instruction: put behind a prompt that is text; chat messages bring theirs.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...] = ()
    solutions: tuple[str, ...] = ()
    extract: Callable[[str], str] | None = None
    instruction: str = ""


_MATH = Preset(
    prompts=("problem",),
    answers=("answer",),
    solutions=("solution",),
    extract=boxed_answer,
    instruction=STEP_BY_STEP,
)

PRESETS: dict[str, Preset] = {
    "gsm8k": Preset(prompts=("question",), solutions=("answer",), extract=gsm8k_answer, instruction=STEP_BY_STEP),
    "math": _MATH,
    "math_500": _MATH,
    "dapo_math": Preset(
        prompts=("prompt",), answers=("reward_model.ground_truth", "solution"), instruction=STEP_BY_STEP
    ),
    "aime": Preset(
        prompts=("problem", "Problem", "question", "prompt"),
        answers=("answer", "Answer", "reward_model.ground_truth"),
        solutions=("solution", "Solution"),
        extract=boxed_answer,
        instruction=STEP_BY_STEP,
    ),
    "arithmetic": Preset(prompts=("prompt",), answers=("answer",)),
}


def preset_names() -> list[str]:
    return list(PRESETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDataset:
    """What is used for a Hugging Face name where the dataset's entry says nothing.

    Attributes:
        preset: how its rows are read.
        split: the split with the rows to train on, or its only one.
        eval_split: the split that an evaluation reads, None if it has no other.
        config_name: its configuration.
    """

    preset: str
    split: str
    eval_split: str | None = None
    config_name: str | None = None


KNOWN_NAMES: dict[str, KnownDataset] = {
    "gsm8k": KnownDataset(preset="gsm8k", split="train", eval_split="test", config_name="main"),
    "competition_math": KnownDataset(preset="math", split="train"),
    # One configuration for each subject: to be named.
    "hendrycks_math": KnownDataset(preset="math", split="train", eval_split="test"),
    "MATH-lighteval": KnownDataset(preset="math", split="train", eval_split="test"),
    "hendrycks-MATH-benchmark": KnownDataset(preset="math", split="train", eval_split="test"),
    "MATH-500": KnownDataset(preset="math_500", split="test"),
    "DAPO-Math-17k": KnownDataset(preset="dapo_math", split="train"),
    "DAPO-Math-17k-Processed": KnownDataset(preset="dapo_math", split="train", config_name="all"),
    "aime_2024": KnownDataset(preset="aime", split="train"),
    "AIME_2024": KnownDataset(preset="aime", split="train"),
    "AIME-2024": KnownDataset(preset="aime", split="train"),
    "aime24": KnownDataset(preset="aime", split="test"),
    "aime_2025": KnownDataset(preset="aime", split="train"),
    "aime25": KnownDataset(preset="aime", split="test"),
    "AIME2025": KnownDataset(preset="aime", split="test"),  # AIME2025-I and AIME2025-II: to be named
    "aimo-validation-aime": KnownDataset(preset="aime", split="train"),
}
"""By the last part of the name: openai/gsm8k, HuggingFaceH4/MATH-500, BytedTsinghua-SIA/DAPO-Math-17k, …"""


def known_dataset(name: str) -> KnownDataset | None:
    """What is known of a Hugging Face name."""
    return KNOWN_NAMES.get(name.rsplit("/", 1)[-1])
