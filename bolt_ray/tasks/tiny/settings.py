"""Settings of a tiny model, and of how it is taught from rows of prompts and answers (``pretrain:``)."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

from bolt_ray.core.settings import SettingError, Settings, setting


@dataclass(frozen=True, kw_only=True)
class TinyModelSettings(Settings):
    """What model to make."""

    size: Literal["tiny", "small", "medium", "large"] = setting(
        "tiny", "parameters: 0.2 M (tiny), 1.7 M (small), 10 M (medium), 76 M (large)"
    )
    tie_embeddings: bool = setting(False, "use the input embedding as the output head")
    num_experts: int = setting(
        0,
        "experts per layer; 0: a dense model. An expert is as wide as the dense block divided by active_experts, so a "
        "token costs the same",
        ge=0,
    )
    active_experts: int = setting(0, "experts a token goes through; 0 when dense", ge=0)
    context_length: int = setting(512, "longest prompt plus completion", unit="tokens", ge=32)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if (self.num_experts, self.active_experts) != (0, 0) and not (
            1 <= self.active_experts <= self.num_experts and self.num_experts >= 2
        ):
            raise SettingError(
                "num_experts",
                f"{self.num_experts} and active_experts {self.active_experts}: give 2 or more experts and "
                "1 … num_experts active ones, or 0 and 0 for a dense model",
            )


@dataclass(frozen=True, kw_only=True)
class RowPretrainSettings(TinyModelSettings):
    """``pretrain:`` - how ``bolt-ray pretrain`` teaches a tiny model from the rows of ``datasets``.

    A model that is to be improved by reinforcement learning is best taught badly: it must find the answer sometimes.
    """

    steps: int = setting(2000, "optimizer steps at most", unit="steps", ge=1)
    until_accuracy: float | None = setting(
        None,
        "stop once so many held-out rows are answered right, one completion each at temperature 1; default: do all "
        "steps. It is looked at every 50 steps",
        gt=0,
        le=1,
    )
    completion: str = setting(
        "<answer>{answer}</answer>", "what the model is to write after a prompt; {answer} is the row's"
    )
    batch_size: int = setting(64, "rows per step", ge=1)
    learning_rate: float = setting(
        2e-3, "peak, after the warm-up; a cosine brings it to a tenth at the end of steps", gt=0
    )
    warmup_steps: int = setting(50, "steps over which the learning rate rises", unit="steps", ge=0)
    weight_decay: float = setting(0.01, "of AdamW", ge=0)
    eval_rows: int = setting(512, "held-out rows for the accuracies, at most", ge=1)
    seed: int = setting(0, "of the weights, the order of the rows and the sampling")

    def __post_init__(self) -> None:
        TinyModelSettings.__post_init__(self)
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(self.completion) if name is not None}
        except ValueError as error:
            raise SettingError("completion", f"is malformed: {error}") from error
        if names != {"answer"}:
            raise SettingError("completion", "must hold {answer}, and nothing else in braces")
