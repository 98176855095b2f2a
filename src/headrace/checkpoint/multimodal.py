"""The text model inside a checkpoint that also reads images or sound: its config, and the names
that its tensors have there. The other parts are not served.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

WRAPPERS = {
    "Gemma3ForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "Llama4ForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "Mistral3ForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
}
"""Architectures that answer a prompt of text as their text model alone does."""


@dataclass(frozen=True)
class TextModel:
    """A text model that wrappers have."""

    architecture: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Of its config class: a wrapper's text_config may leave them out."""


QWEN2 = TextModel("Qwen2ForCausalLM", {"max_position_embeddings": 32_768})
LLAMA_SIZES = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32_000
}  # fmt: skip
TEXT_MODELS = {
    "gemma3_text": TextModel(
        "Gemma3ForCausalLM",
        {
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 256, "max_position_embeddings": 131_072, "rope_theta": 1e6,
            "hidden_activation": "gelu_pytorch_tanh",
        },
    ),
    "llama": TextModel(
        "LlamaForCausalLM",
        LLAMA_SIZES | {"intermediate_size": 11_008, "max_position_embeddings": 2048},
    ),
    "llama4_text": TextModel("Llama4ForCausalLM"),
    "mistral": TextModel(
        "MistralForCausalLM",
        LLAMA_SIZES
        | {
            "intermediate_size": 14_336, "num_key_value_heads": 8,
            "max_position_embeddings": 131_072, "sliding_window": 4096,
        },
    ),
    "qwen2": QWEN2,
    "qwen2_5_vl": QWEN2,
    "qwen2_5_vl_text": QWEN2,
    "qwen2_vl": QWEN2,
    "qwen2_vl_text": QWEN2,
    "qwen3": TextModel("Qwen3ForCausalLM"),
    "qwen3_vl_text": TextModel("Qwen3ForCausalLM"),
    "qwen3_vl_moe_text": TextModel("Qwen3VLMoeForConditionalGeneration"),
}  # fmt: skip
"""By model_type of text_config, or of the config itself where it has none (Qwen2-VL's first)."""
OUTER = (
    "dtype", "torch_dtype", "tie_word_embeddings", "quantization_config", "compression_config",
    "bos_token_id", "eos_token_id",
)  # fmt: skip
"""Fields in which the wrapper's own value counts; if it is silent about ties, the weights tell."""


@dataclass(frozen=True)
class TextPart:
    """How the tensors of the text model are called."""

    base: str
    """Prefix of all but the head, "model." in a checkpoint of its own."""
    head: str


LAYOUTS = (
    TextPart("language_model.model.", "language_model.lm_head"),
    TextPart("model.language_model.", "lm_head"),
    TextPart("model.text_model.", "lm_head"),
)
"""As the hub has them from various years. Some wrappers put nothing before the text model's."""


def find_text_part(names: Collection[str]) -> TextPart | None:
    """None: its tensors have their usual names."""
    starts = (part for part in LAYOUTS if any(name.startswith(part.base) for name in names))
    return next(starts, None)


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the text model in a wrapper's; any other as it is.

    A text model that is not native leaves the wrapper to transformers.
    """
    text = config.get("text_config") or config
    model = TEXT_MODELS.get(text.get("model_type", "")) if isinstance(text, dict) else None
    if model is None or WRAPPERS.isdisjoint(config.get("architectures") or []):
        return config
    own = {name: value for name, value in text.items() if name != "tie_word_embeddings"}
    outer = {name: config[name] for name in OUTER if config.get(name) is not None}
    return {**model.defaults, **own, **outer, "architectures": [model.architecture]}
