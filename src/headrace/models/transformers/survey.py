"""What a model's layers ask of attention, found out by a forward pass; what we lack is refused."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headrace.attention.base import AttentionOptions
from headrace.errors import StartupError
from headrace.models.transformers.attention import OTHER_ATTENTION, LayerAttention
from headrace.models.transformers.model import head_of, hidden_states

UNDERSTOOD = {
    "attention_mask", "dropout", "scaling", "sliding_window", "softcap", "is_causal", "s_aux",
}  # fmt: skip
HARMLESS = {"position_ids", "output_attentions", "use_cache", "cache_position"}
"""Arguments of the model that some pass on to their attention, which has no use for them."""


class Survey:
    """An `AttentionPass` that notes each call in `layers` and attends to nothing."""

    def __init__(self) -> None:
        self.layers: list[LayerAttention] = []

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, asked: dict[str, Any]
    ) -> Tensor:
        if reason := _unsupported(module, asked):
            raise StartupError(f"{type(module).__name__} {reason}")
        scaling, sinks = asked.get("scaling"), asked.get("s_aux")
        self.layers.append(
            LayerAttention(
                num_heads=query.shape[1],
                num_kv_heads=key.shape[1],
                key_size=key.shape[2],
                value_size=value.shape[2],
                options=AttentionOptions(
                    scale=query.shape[2] ** -0.5 if scaling is None else float(scaling),
                    window=asked.get("sliding_window"),
                    soft_cap=asked.get("softcap"),
                    sinks=None if sinks is None else sinks.float(),
                ),
            )
        )
        return query.new_zeros(*query.shape[:2], value.shape[2])


@torch.inference_mode()
def take_survey(model: PreTrainedModel) -> tuple[list[LayerAttention], int]:
    """Of all layers in the order of their calls, and the size of the vocabulary.

    Raises StartupError if there are no such calls, or some that cannot be served.
    """
    survey = Survey()
    two = torch.arange(2, device=model.device)
    hidden = hidden_states(model, two, two, survey)
    if not survey.layers:
        raise StartupError(OTHER_ATTENTION)
    return survey.layers, head_of(model)(inputs_embeds=hidden.unsqueeze(0)).logits.shape[-1]


def _unsupported(module: nn.Module, asked: dict[str, Any]) -> str | None:
    is_causal = asked.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        return "is not causal"
    if asked["attention_mask"] is not None:
        return "builds an attention mask of its own"
    unknown = {name for name, value in asked.items() if value is not None and value is not False}
    unknown -= UNDERSTOOD | HARMLESS
    return f"needs {', '.join(sorted(unknown))}" if unknown else None


def check_windows(config: Any, layers: list[LayerAttention]) -> None:
    """Raises StartupError if the config has sliding windows that attention was not told of: they
    lie in the masks, which are not built."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    declared = kinds.count("sliding_attention") if kinds else int(bool(window))
    if declared > sum(layer.options.window is not None for layer in layers):
        raise StartupError("its sliding window stands in the attention mask only")
