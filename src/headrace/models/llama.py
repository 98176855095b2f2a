"""Llama 1 to 3 and the many models of their shape (SmolLM2, Yi, TinyLlama, ...)."""

from typing import Any

from headrace.models.spec import DecoderSpec, FamilyConfig, decoder_spec, read_config


class LlamaConfig(FamilyConfig, kw_only=True):
    """What Llama adds to the shared fields."""

    attention_bias: bool = False
    mlp_bias: bool = False


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    llama = read_config(LlamaConfig, config)
    return decoder_spec(
        llama,
        qkv_bias=llama.attention_bias,
        output_bias=llama.attention_bias,
        mlp_bias=llama.mlp_bias,
    )
