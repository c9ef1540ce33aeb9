"""Loading a causal language model for training, and checking that we compute its log-probs."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bolt_ray.core.errors import ModelError
from bolt_ray.engines.learner.logprobs import Extra, LogitShape, LogProbHead
from bolt_ray.engines.learner.settings import LearnerSettings

log = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Files copied along with an exported model, where the model directory has them."""


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a definite name; "auto" is made definite for the whole run when its settings are resolved."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def training_device() -> torch.device:
    """This process's GPU, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_causal_lm(path: str, *, dtype: torch.dtype, attention: str, trust_remote_code: bool) -> nn.Module:
    """A causal language model with dropout switched off.

    Raises:
        ModelError: the directory holds no causal language model that Transformers can load.
    """
    from transformers import AutoModelForCausalLM

    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=attention, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load a causal language model from {path!r}: {error}") from error
    text: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
    if attention == "sdpa" and getattr(text, "attn_logit_softcapping", None):
        raise ModelError(
            f"{type(model).__name__} caps its attention scores, which Transformers' sdpa leaves out and the generator "
            "does not: set model.attention to eager or flash_attention_2"
        )
    switch_off_dropout(model)
    return model


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0: log-probs of a policy with dropout are those of another policy."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(vars(module).get("attention_dropout"), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - modules have no such declared field


def logit_shape(config: Any, settings: LearnerSettings) -> LogitShape:
    """How this family of models (from its ``config.json``) and sampling change the logits."""
    values: dict[str, Any] = config.to_dict()
    scale = float(values.get("logit_scale") or 1.0)
    if values.get("model_type", "").startswith("granite"):
        scale /= float(values.get("logits_scaling") or 1.0)
    softcap = values.get("final_logit_softcapping")
    return LogitShape(
        scale=scale,
        softcap=float(softcap) if softcap else None,
        temperature=settings.sampling.temperature,
        min_p=settings.sampling.min_p,
        top_k=settings.sampling.top_k,
        top_p=settings.sampling.top_p,
    )


class PolicyModule(nn.Module):
    """A causal language model that returns log-probs of given tokens instead of logits.

    Args:
        trained: False for a reference, which has no use for the router's loss.

    Raises:
        ModelError: an output layer of another kind, or a router's loss is asked of a model without one.
    """

    def __init__(self, model: Any, *, settings: LearnerSettings, trained: bool = True) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        if type(head) is not nn.Linear:
            raise ModelError(
                f"the output layer of {type(model).__name__} is a {type(head).__name__}, not a plain linear layer"
            )
        model.set_output_embeddings(LogProbHead(head, shape=logit_shape(model.config, settings)))
        self.model = model
        self._router = router_of(model) if trained and settings.train.router_aux_loss_coef > 0 else None

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        predict: Tensor,
        targets: Tensor,
        extra: Extra = "entropy",
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs, and the quantity ``extra`` names, at the requested positions, and the router's loss.

        Args:
            input_ids: int64 [R, L].
            position_ids: int64 [R, L], restarting at each packed sequence; None for one sequence per row.
            predict: int64 [n], positions in the flattened rows.
            targets: int64 [n], the token each of them predicts.

        Returns:
            float32 [n] log-probs; float32 [n] of ``extra`` (see `Extra`); a scalar, the mean load-balancing loss of
            the layers at these positions, 0 without gradient, router or positions.
        """
        # Transformers recognizes packing by position ids that restart, and isolates the sequences from each other.
        routed = self._router is not None and torch.is_grad_enabled() and predict.numel() > 0
        output = self.model.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            use_cache=False,
            **({"output_router_logits": True} if routed else {}),
        )
        hidden = output.last_hidden_state
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, predict)
        logprobs, second = self.model.get_output_embeddings()(chosen, targets, extra)
        balance = logprobs.new_zeros(())
        if routed:
            assert self._router is not None
            balance = self._router.loss(output.router_logits, predict)
        return logprobs, second, balance

    def whole_logits(self, input_ids: Tensor) -> Tensor:
        """Logits [R, L, V] by the model's own forward pass; for `packing_self_test` only."""
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """The routers of a mixture of experts.

    Attributes:
        num_experts: of a layer.
        active_experts: that a token goes through.
    """

    num_experts: int
    active_experts: int

    def loss(self, logits: Sequence[Tensor], positions: Tensor) -> Tensor:
        """Load-balancing loss (Switch Transformer, arXiv 2101.03961, eq. 4), the mean over the layers, as Transformers
        counts it: ``active_experts`` where each layer uses all evenly. (Transformers pools the layers first, where the
        collapse of one may hide that of another.)

        Args:
            logits: per layer [R · L, experts].
            positions: int64 [n], n ≥ 1, those that count.
        """
        from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

        losses = [
            load_balancing_loss_func(
                (layer.reshape(-1, self.num_experts).index_select(0, positions),), self.num_experts, self.active_experts
            )
            for layer in logits
        ]
        return torch.stack(cast("list[Tensor]", losses)).mean()


def router_of(model: Any) -> Router:
    """The router of a mixture of experts.

    Raises:
        ModelError: the model has none.
    """
    config = model.config.get_text_config()
    num_experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if not num_experts or not hasattr(config, "router_aux_loss_coef"):
        raise ModelError(
            f"train.router_aux_loss_coef balances the experts of a mixture, and {type(model).__name__} has none: leave "
            "it out"
        )
    return Router(num_experts=int(num_experts), active_experts=int(config.num_experts_per_tok))


def load_policy(settings: LearnerSettings, *, dtype: torch.dtype) -> PolicyModule:
    """The model to train, in ``dtype``."""
    model: Any = load_causal_lm(
        settings.model_path,
        dtype=dtype,
        attention=settings.model.attention,
        trust_remote_code=settings.model.trust_remote_code,
    )
    if settings.model.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return PolicyModule(model, settings=settings)


@torch.no_grad()
def packing_self_test(policy: Any, module: PolicyModule, *, dtype: torch.dtype, device: torch.device) -> bool:
    """Compare our log-probs of two short sequences with the model's own logits, separate and packed into one row.

    Collective under ZeRO-3.

    Args:
        policy: what to call for our log-probs (the engine, or the module itself).
        module: the module, for the model's own logits.

    Returns:
        True if packed sequences give the same log-probs as separate ones; False if this model (a recurrent one,
        say) mixes them up, and packing must stay off.

    Raises:
        ModelError: our log-probs are not the model's even one sequence at a time.
    """
    vocabulary = module.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, vocabulary, (size,), generator=generator).to(device) for size in (6, 4))
    both = torch.cat([first, second])[None]
    head = module.model.get_output_embeddings()

    def theirs(tokens: Tensor) -> Tensor:
        # The head applies temperature and filters only on our own path.
        logits = module.whole_logits(tokens[None])[0, :-1].float() / head.shape.temperature
        head.shape.restrict(logits, tokens[1:], head.shape.threshold(logits))
        return torch.log_softmax(logits, dim=-1).gather(1, tokens[1:, None])[:, 0]

    def ours(tokens: Tensor) -> Tensor:
        steps = torch.arange(tokens.shape[0] - 1, device=device)
        logprobs: Tensor = policy(tokens[None], None, steps, tokens[1:])[0]
        return logprobs

    expected = torch.cat([theirs(first), theirs(second)])
    separate = torch.cat([ours(first), ours(second)])
    positions = torch.cat([torch.arange(6), torch.arange(4)])[None].to(device)
    predict = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8], device=device)
    packed = policy(both, positions, predict, both[0][predict + 1])[0]
    # bfloat16 rounds logits of some tens to a few hundredths.
    tolerance = 1e-3 if dtype == torch.float32 else 0.25
    gap = float((separate - expected).abs().max())
    if not gap <= tolerance:
        raise ModelError(
            f"log-probs computed from the hidden states of {type(module.model).__name__} differ from those of its "
            f"own logits by {gap:.3g}: it changes its logits in a way this learner does not support"
        )
    mixed = float((packed - separate).abs().max())
    packs = mixed <= tolerance  # False if NaN
    if not packs:
        log.warning("packing is off: packed sequences change each other's log-probs by %.3g in this model", mixed)
    return packs


def tie_of_embeddings(model: Any) -> bool:
    """True if the output layer shares the input embedding's weight."""
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def copy_model_files(source: str, target: Path, *, dtype: torch.dtype) -> None:
    """Copy config and tokenizer files of a model directory, with the dtype of the new weights.

    Raises:
        ModelError: ``source`` is no local directory with a ``config.json``.
    """
    directory = Path(source)
    if not (directory / "config.json").is_file():
        raise ModelError(f"{source!r} is not a model directory: it has no config.json; give the path of a local one")
    for name in TOKENIZER_FILES:
        if (directory / name).is_file():
            (target / name).write_bytes((directory / name).read_bytes())
    for code in directory.glob("*.py"):
        (target / code.name).write_bytes(code.read_bytes())
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
