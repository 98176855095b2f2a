"""Phi-3 and Phi-4: Llama with fused projections on disk and, for long contexts, longrope."""

from dataclasses import replace
from typing import Any

from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    mlp_spec,
    read_config,
    rms_norm,
)
from headrace.models.fields import Positive
from headrace.models.sources import stacked_gate_up, stacked_qkv
from headrace.models.spec import DecoderSpec, LayerSpec, with_windows
from headrace.weights import Naming


class Phi3Config(FamilyConfig, kw_only=True):
    """What Phi-3 adds to the shared fields."""

    sliding_window: Positive | None = None


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    phi = read_config(Phi3Config, config)
    attention = attention_spec(phi)
    layer = LayerSpec(attention=attention, mlp=mlp_spec(phi), norm=rms_norm(phi))
    layers = [layer] * phi.num_hidden_layers
    naming = Naming(
        inner={
            **stacked_qkv("self_attn.qkv_proj", attention),
            **stacked_gate_up("mlp.gate_up_proj", phi.intermediate_size),
        }
    )
    decoder = decoder_spec(phi, with_windows(layers, [phi.sliding_window] * len(layers)))
    return replace(decoder, naming=naming)
