"""`DecoderSpec`: all that tells one decoder-only model from another. Knows no config.json."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from headrace.layers.attention import AttentionSpec
from headrace.layers.embedding import EmbeddingSpec, HeadSpec
from headrace.layers.mlp import MLPSpec
from headrace.layers.moe import MoESpec
from headrace.layers.norm import NormSpec
from headrace.layers.rope import RopeSpec
from headrace.weights import Naming

NormPlacement = Literal["before", "after", "both", "sum"]


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One layer: attention, then MLP, each added to the residual stream."""

    attention: AttentionSpec
    mlp: MLPSpec | MoESpec
    norm: NormSpec
    placement: NormPlacement = "before"
    """What is normalised: what attention and MLP read, what they give ("after"), both, or the sum
    of residual stream and what they give."""
    is_parallel: bool = False
    """The MLP reads the layer's input, as the attention does, not the attention's result."""


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """Token ids to logits."""

    vocab_size: int
    hidden_size: int
    max_position: int
    """Longest context: max_position_embeddings, times the factor of a scaling that extends it."""
    embedding: EmbeddingSpec
    layers: tuple[LayerSpec, ...]
    norm: NormSpec | None
    """Before the head."""
    head: HeadSpec
    naming: Naming = field(default_factory=Naming)
    """Of the parameters in the checkpoint."""


def with_windows(layers: Sequence[LayerSpec], windows: Sequence[int | None]) -> list[LayerSpec]:
    """The layers with one sliding window each."""
    return [
        replace(layer, attention=replace(layer.attention, window=window))
        for layer, window in zip(layers, windows, strict=True)
    ]


def with_ropes(layers: Sequence[LayerSpec], ropes: Sequence[RopeSpec | None]) -> list[LayerSpec]:
    """The layers with one rotary embedding, or none, each."""
    return [
        replace(layer, attention=replace(layer.attention, rope=rope))
        for layer, rope in zip(layers, ropes, strict=True)
    ]
