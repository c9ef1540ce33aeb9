"""Settings of a training run: what is generated (``rollout:``), evaluated (``eval:``) and saved (``checkpoint:``,
``samples:``), how long each wait may take (``deadlines:``) and what is recorded of the time (``profile:``).
"""

from __future__ import annotations

from dataclasses import dataclass

from bolt_ray.core.settings import SettingError, Settings, require_choice, setting
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.engines.profiler import Tool
from bolt_ray.training.checkpoint_storage import storage_url_problem

PROFILED_ROLES = ("learner", "generator", "driver")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings(Settings):
    """``rollout:`` - how much is generated for one optimizer step, and how old it may be."""

    rollouts_per_step: int = setting(
        256, "completions in one optimizer step (prompts = rollouts_per_step / group_size)", unit="completions", ge=1
    )
    group_size: int = setting(1, "K, completions per prompt", unit="completions", ge=1)
    max_staleness: int = setting(
        0, "0: strictly on-policy; n: train completions up to n policy versions old", unit="versions", ge=0
    )
    dynamic_sampling: bool = setting(False, "refill groups whose rewards are all equal (DAPO, arXiv 2503.14476)")
    dynamic_sampling_rounds: int = setting(
        3, "dynamic_sampling: at most so many times rollouts_per_step completions are refilled", ge=1
    )
    max_context_tokens: int | None = setting(
        None, "longest prompt plus completion; default: the model's own limit", unit="tokens", ge=1
    )

    @property
    def prompts_per_step(self) -> int:
        return self.rollouts_per_step // self.group_size


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings(Settings):
    """``eval:`` - held-out problems, never seen by the baseline."""

    every_steps: int = setting(50, "0: only before and after training", unit="steps", ge=0)
    datasets: tuple[DatasetSettings, ...] = setting(
        (), "problems; default: the prompts that data.heldout_* keeps out of training"
    )
    num_problems: int | None = setting(None, "default: all held-out problems", ge=1)
    num_samples: int = setting(1, "completions per problem", ge=1)
    success_reward: float = setting(1.0, "a completion is right when its reward reaches this")
    success_part: str | None = setting(
        None,
        "name of the reward whose own value, before its weight, must reach success_reward, where it applies; default: "
        "the weighted sum without shaping",
        min_length=1,
    )
    temperature: float = setting(1.0, "of sampling; 0: always the most likely token", ge=0)
    top_p: float = setting(1.0, "draw from the smallest set of tokens with this much probability", gt=0, le=1)
    top_k: int = setting(0, "draw from the k most likely tokens; 0: all", ge=0)
    min_p: float = setting(0.0, "leave out tokens below this share of the most likely one's probability", ge=0, lt=1)
    max_new_tokens: int | None = setting(
        None, "length limit of a completion; default: sampling.max_new_tokens", unit="tokens", ge=1
    )
    seed: int = setting(1234, "of the completions: the same at every evaluation, so that scores compare", ge=0)
    at_start: bool = setting(True, "evaluate before the first step")
    at_end: bool = setting(True, "evaluate after the last step")

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.num_samples > 1 and self.temperature == 0:
            raise SettingError(
                "num_samples",
                f"{self.num_samples} at temperature 0 gives every problem {self.num_samples} equal completions; set "
                "eval.temperature above 0, or eval.num_samples to 1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings(Settings):
    """``checkpoint:`` - what is saved and kept."""

    every_steps: int = setting(100, "0: only at the end", unit="steps", ge=0)
    keep: int = setting(2, "newest checkpoints kept; the disk holds one more while it is written", ge=1)
    storage: str | None = setting(
        None,
        "URL below which finished checkpoints of this run are uploaded too: s3://bucket/path, gs://bucket/path or "
        "file:///directory; credentials come from the environment",
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        problem = None if self.storage is None else storage_url_problem(self.storage)
        if problem is not None:
            raise SettingError("storage", problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesSettings(Settings):
    """``samples:`` - completions kept to be read: ``samples/`` in the run directory, `bolt-ray inspect --samples`."""

    per_step: int = setting(
        16,
        "of a step: the best, worst, longest, truncated, unscored ones and those farthest from v̂, by turns; 0: none",
        unit="completions",
        ge=0,
    )
    all: bool = setting(False, "keep every completion of a step")
    eval: int = setting(
        500,
        "of an evaluation; of more, those of problems spread evenly are kept, always the same ones; 0: none",
        unit="completions",
        ge=0,
    )
    max_chars: int = setting(
        20_000,
        "longest text of a sample, such as its completion; of a longer one the middle is left out",
        unit="characters",
        ge=1,
    )
    max_mb: float = setting(
        500.0,
        "of all files of samples; to stay below it, files of older steps are removed here and there",
        unit="MB",
        gt=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineSettings(Settings):
    """``deadlines:`` - how long each wait may take before the run stops and says what it waited for."""

    startup_s: float = setting(
        600.0,
        "start of a generator, of the learner ranks, or of what must wait until nodes have booted",
        unit="s",
        gt=0,
    )
    generation_s: float = setting(600.0, "a generator without any progress", unit="s", gt=0)
    step_s: float = setting(1800.0, "one optimizer step, and one collective operation", unit="s", gt=0)
    sync_s: float = setting(300.0, "one weight sync", unit="s", gt=0)
    baseline_s: float = setting(
        180.0,
        "an answer of the baseline shards; Ray takes over a minute to find out that a node is gone, before it starts "
        "its shards elsewhere",
        unit="s",
        gt=0,
    )
    prompts_s: float = setting(300.0, "the next prompts", unit="s", gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings(Settings):
    """``profile:`` - where time and memory go: spans of the whole run, and some steps operator by operator.

    What is recorded is in ``profile/`` of the run directory; see ``bolt-ray docs runs``.
    """

    steps: tuple[int, int] | None = setting(None, "[first, last] step recorded, e.g. [5, 8]; default: none")
    roles: tuple[str, ...] = setting(
        ("learner",), f"processes recorded: {', '.join(PROFILED_ROLES)}", choices=lambda: list(PROFILED_ROLES)
    )
    tool: Tool = setting(
        "torch",
        "torch: the time every operator takes, by PyTorch's profiler; memory: its memory too, on GPUs with a snapshot",
    )
    trace_mb: float = setting(
        32.0, "spans kept in trace.json and trace-older.json, the newest; 0: none", unit="MB", ge=0
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        for role in self.roles:
            require_choice("roles", role, PROFILED_ROLES)
        if self.steps is not None and not 1 <= self.steps[0] <= self.steps[1]:
            first, last = self.steps
            raise SettingError("steps", f"are the first and the last, counted from 1, not [{first}, {last}]")

    def covers(self, step: int, role: str) -> bool:
        """Whether ``role`` is recorded during the step of that number, counted from 1."""
        return self.steps is not None and role in self.roles and self.steps[0] <= step <= self.steps[1]
