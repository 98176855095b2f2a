"""Mistral: Llama with a sliding window over all layers (in its first version)."""

from typing import Any

from headrace.models.spec import DecoderSpec, FamilyConfig, Positive, decoder_spec, read_config


class MistralConfig(FamilyConfig, kw_only=True):
    """What Mistral adds to the shared fields."""

    sliding_window: Positive | None = None


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    mistral = read_config(MistralConfig, config)
    return decoder_spec(mistral, windows=[mistral.sliding_window] * mistral.num_hidden_layers)
