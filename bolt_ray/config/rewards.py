"""``rewards:`` - a list of rewards, each ``{type, weight, …}``; ``scoring:`` says which processes they run in.

    rewards:
      - {type: math, weight: 1.0}
      - {type: format, weight: 0.2, structure: think_answer}
      - {type: "my_rewards.py:score", weight: 0.5, name: style}

``type`` names a built-in reward, or is a function of one's own as ``module:function`` or ``file.py:function``.
A dataset may name the rewards that apply to it; without that all do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

import jsonschema
from pydantic import BeforeValidator, Field, model_validator

from bolt_ray.config.base import Section
from bolt_ray.core.hints import nearest

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RewardSection(Section):
    """What every reward has.

    Attributes:
        name: its name in metrics and reasons, and what datasets refer to; default: its type.
        weight: factor of its value in the sum; 0 only reports it, a negative one punishes.
        shaping: counts for the advantage's reward only, not for the baseline's success probability.
        timeout_s: wall-clock limit of one call; default: ``scoring.timeout_s``.
        memory_mb: private memory of its process; default: ``scoring.memory_mb``.
    """

    name: str | None = Field(default=None, min_length=1, pattern=r"^[A-Za-z0-9_.\-]+$")
    weight: FiniteFloat = 1.0
    shaping: bool = False
    timeout_s: PositiveFloat | None = None
    memory_mb: int | None = Field(default=None, ge=64)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the reward's class."""
        return self.model_dump(exclude={"type", *RewardSection.model_fields})


class ArithmeticReward(RewardSection):
    """The embedded arithmetic task's own check."""

    type: Literal["arithmetic"]


class MathReward(RewardSection):
    """Mathematical equivalence by math-verify.

    Attributes:
        extract: where the completion's answer is: the last ``\\boxed{}``, the last number, or ``auto``:
            the last boxed one, else what math-verify finds, else the last number.
        decimals: places to which decimal numbers are compared.
        parse_timeout_s: math-verify's own limit on one parse and on one comparison.
    """

    type: Literal["math"]
    extract: Literal["auto", "boxed", "last_number"] = "auto"
    decimals: int = Field(default=6, ge=0, le=15)
    parse_timeout_s: int = Field(default=3, ge=1)


class ExactReward(RewardSection):
    """1 if the completion is the answer."""

    type: Literal["exact"]
    ignore_case: bool = False
    ignore_space: bool = True


class ContainsReward(RewardSection):
    """Share of ``texts`` found in the completion; without ``texts``, whether the answer is in it."""

    type: Literal["contains"]
    texts: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    ignore_case: bool = True
    ignore_space: bool = True


class RegexReward(RewardSection):
    """1 if ``pattern`` matches; with a group named ``answer``, if that group is the row's answer."""

    type: Literal["regex"]
    pattern: str = Field(min_length=1)
    full: bool = False
    ignore_case: bool = False

    @model_validator(mode="after")
    def _pattern_compiles(self) -> Self:
        try:
            re.compile(self.pattern)
        except re.error as problem:
            raise ValueError(f"`pattern` is not a regular expression: {problem}") from problem
        return self


class FormatReward(RewardSection):
    """Whether the completion has the wanted structure.

    Attributes:
        structure: ``json``: the completion (or its one fenced block) parses; ``json_schema``: it also fits
            ``json_schema``; ``xml``: every tag of ``tags`` once, opened and closed, in this order;
            ``think_answer``: ``<think>…</think><answer>…</answer>`` and nothing else.
        partial: give the share of what is right instead of 0 (``xml`` and ``think_answer``).
    """

    type: Literal["format"]
    structure: Literal["json", "json_schema", "xml", "think_answer"] = "think_answer"
    json_schema: dict[str, Any] | None = None
    tags: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.\-]*$")], ...] = ()
    partial: bool = False

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if (self.structure == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` is needed with `structure: json_schema`, and only there")
        if self.json_schema is not None:
            try:
                jsonschema.validators.validator_for(self.json_schema).check_schema(self.json_schema)
            except jsonschema.SchemaError as problem:
                raise ValueError(f"`json_schema` is not a JSON Schema: {problem.message}") from problem
        if (self.structure == "xml") != bool(self.tags):
            raise ValueError("`tags` are needed with `structure: xml`, and only there")
        if len(set(self.tags)) != len(self.tags):
            raise ValueError("`tags` must differ from each other")
        return self


class LengthReward(RewardSection):
    """1 at ``target_tokens``, falling linearly to 0 at ``tolerance_tokens`` away from it."""

    type: Literal["length"]
    target_tokens: int = Field(ge=1)
    tolerance_tokens: int = Field(ge=1)
    shaping: bool = True


class OverlongReward(RewardSection):
    """DAPO's soft overlong punishment (2503.14476, eq. 13).

    Attributes:
        max_tokens: longest completion allowed.
        cache_tokens: over the last this many tokens before it, the value falls from 0 to -1.
    """

    type: Literal["overlong"]
    max_tokens: int = Field(ge=1)
    cache_tokens: int = Field(ge=1)
    shaping: bool = True

    @model_validator(mode="after")
    def _cache_fits(self) -> Self:
        if self.cache_tokens > self.max_tokens:
            raise ValueError("`cache_tokens` must not be above `max_tokens`")
        return self


class CodeReward(RewardSection):
    """Runs the completion's program in the sandbox.

    Attributes:
        check: ``tests``: Python test code run after the program; ``output``: what it prints, for given input.
        tests_column: metadata column with the tests (text, or a list of texts); ``answer`` is the answer.
        partial: give the share of tests or cases passed instead of all or nothing.
        wall_s, cpu_s, memory_mb_program, max_processes, file_mb, output_kb: limits of one run.
        allow_unsafe: run without a sandbox where the machine has none. Only for programs you trust.
    """

    type: Literal["code"]
    check: Literal["tests", "output"] = "tests"
    tests_column: str = Field(default="answer", min_length=1)
    partial: bool = False
    wall_s: PositiveFloat = 5.0
    cpu_s: int = Field(default=4, ge=1)
    memory_mb_program: int = Field(default=512, ge=64)
    max_processes: int = Field(default=16, ge=1)
    file_mb: int = Field(default=16, ge=1)
    output_kb: int = Field(default=256, ge=1)
    allow_unsafe: bool = False
    timeout_s: PositiveFloat | None = 120.0

    @model_validator(mode="after")
    def _runs_end_first(self) -> Self:
        if self.timeout_s is not None and self.timeout_s <= self.wall_s:
            raise ValueError("`timeout_s` (all runs of a completion) must be above `wall_s` (one run)")
        return self


class FunctionReward(RewardSection):
    """A function of one's own, ``module:function`` or ``path/to/file.py:function``.

    Attributes:
        function: where it is.
        batched: it takes a list of completions and returns a list of numbers.
        options: keyword arguments it is called with.
        concurrency: how many calls of an async function for one completion run at a time.
    """

    type: Literal["function"]
    function: str = Field(pattern=r"^[^:]+:[A-Za-z_]\w*$")
    batched: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    concurrency: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _options_are_json(self) -> Self:
        try:
            json.dumps(self.options)
        except (TypeError, ValueError) as problem:
            raise ValueError(f"`options` must be plain values: {problem}") from problem
        return self


class RewardModelReward(RewardSection):
    """A sequence-classification model of Transformers.

    Attributes:
        model: directory or name.
        output: ``score``: the one output, or the one of ``label``, as it is; ``sigmoid`` of it;
            ``probability``: softmax over the outputs, that of ``label``.
        label: index of the output.
        batch_size: completions per forward pass.
        max_tokens: prompt and completion beyond this are cut at the front.
        device: ``auto`` takes a GPU if the scorer has one.
    """

    type: Literal["reward_model"]
    model: str = Field(min_length=1)
    output: Literal["score", "sigmoid", "probability"] = "score"
    label: int = Field(default=0, ge=0)
    batch_size: int = Field(default=8, ge=1)
    max_tokens: int = Field(default=2048, ge=8)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    memory_mb: int | None = Field(default=16384, ge=64)
    timeout_s: PositiveFloat | None = 120.0


class EndpointSection(RewardSection):
    """What the two rewards behind an HTTP endpoint share.

    Attributes:
        url: where the requests go; ``https`` certificates are always verified.
        api_key_env: environment variable (on the scorers' machines) with the key; it is never logged.
        request_timeout_s: limit of one request.
        max_retries: further tries after a failed connection or the statuses 408, 429, 500, 502, 503 and 504.
        backoff_s: wait before the first retry; doubles each time, with jitter; ``Retry-After`` is honored.
        concurrency: requests under way at a time, per scorer.
    """

    url: str = Field(pattern=r"^https?://[^\s/]+")
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    request_timeout_s: PositiveFloat = 30.0
    max_retries: int = Field(default=4, ge=0, le=20)
    backoff_s: PositiveFloat = 0.5
    concurrency: int = Field(default=8, ge=1, le=256)
    timeout_s: PositiveFloat | None = 300.0


class HttpReward(EndpointSection):
    """POSTs ``{"inputs": [...]}``, expects ``{"rewards": [number or null, ...]}``; a batch a request.

    Attributes:
        batch_size: completions per request.
    """

    type: Literal["http"]
    batch_size: int = Field(default=16, ge=1)


class LlmJudgeReward(EndpointSection):
    """Asks a model behind an OpenAI-compatible endpoint; ``url`` is the base, as ``https://host/v1``.

    Attributes:
        model: name of the judge.
        prompt: what it is asked; ``{prompt}``, ``{completion}`` and ``{answer}`` are filled in.
        pattern: where the judge's answer has its grade; the group ``score`` of the last match is read.
        min_score, max_score: the grades are mapped from this range to 0 … 1; outside it: unscored.
        max_tokens, temperature: sampling of the judge.
    """

    type: Literal["llm_judge"]
    model: str = Field(min_length=1)
    prompt: str = (
        "Grade the answer to the question from 0 (wrong or useless) to 10 (right and complete).\n\n"
        "Question:\n{prompt}\n\nReference answer (may be empty):\n{answer}\n\nAnswer to grade:\n{completion}\n\n"
        "Reply with one line: Score: <number>"
    )
    pattern: str = r"[Ss]core:\s*(?P<score>-?\d+(?:\.\d+)?)"
    min_score: FiniteFloat = 0.0
    max_score: FiniteFloat = 10.0
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if self.min_score >= self.max_score:
            raise ValueError("`min_score` must be below `max_score`")
        try:
            has_score = "score" in re.compile(self.pattern).groupindex
        except re.error as problem:
            raise ValueError(f"`pattern` is not a regular expression: {problem}") from problem
        if not has_score:
            raise ValueError("`pattern` needs a group named score: (?P<score>...)")
        if "{completion}" not in self.prompt:
            raise ValueError("`prompt` must contain {completion}")
        return self


_UNION = (
    ArithmeticReward
    | MathReward
    | ExactReward
    | ContainsReward
    | RegexReward
    | FormatReward
    | LengthReward
    | OverlongReward
    | CodeReward
    | FunctionReward
    | RewardModelReward
    | HttpReward
    | LlmJudgeReward
)
REWARD_TYPES = tuple(sorted(get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(_UNION)))


def _read_type(value: Any) -> Any:
    """Let ``type`` be a function reference, and name the nearest types for one that does not exist."""
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return value
    kind = value["type"]
    if ":" in kind:
        if "function" in value:
            raise ValueError(f"give the function once: as `type: {kind}` or as `function:`")
        return {**value, "type": "function", "function": kind}
    if kind not in REWARD_TYPES:
        near = nearest(kind, REWARD_TYPES)
        hint = f"did you mean {near}? " if near else ""
        raise ValueError(
            f"unknown reward type {kind!r}; {hint}known: {', '.join(REWARD_TYPES)}; "
            "one of your own is `module:function` or `file.py:function`"
        )
    return value


Reward = Annotated[Annotated[_UNION, Field(discriminator="type")], BeforeValidator(_read_type)]
"""One entry of ``rewards:``."""


def reward_names(rewards: Sequence[RewardSection]) -> list[str]:
    """The rewards' names in order: their own, else the type (or the function), numbered when repeated.

    Raises:
        ValueError: two rewards were given the same name.
    """
    given = [reward.name for reward in rewards if reward.name]
    repeated = sorted({name for name in given if given.count(name) > 1})
    if repeated:
        raise ValueError(f"rewards: several are named {', '.join(repeated)}; names must differ")
    taken, names = set(given), []
    for reward in rewards:
        name, number = reward.name or _default_name(reward), 1
        while not reward.name and name in taken:
            number += 1
            name = f"{_default_name(reward)}_{number}"
        taken.add(name)
        names.append(name)
    return names


def check_reward_references(names: Sequence[str], wanted: Sequence[str], *, place: str) -> None:
    """Check the reward names a dataset refers to.

    Raises:
        ValueError: one does not exist; the message names the nearest.
    """
    for name in wanted:
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean {near}? " if near else ""
            raise ValueError(f"{place}: no reward is named {name!r}; {hint}there are: {', '.join(names)}")


def _default_name(reward: RewardSection) -> str:
    if isinstance(reward, FunctionReward):
        return reward.function.rpartition(":")[2]
    return str(reward.model_dump(include={"type"})["type"])
