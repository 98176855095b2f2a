"""Self-attention with grouped query heads; keys and values live in the backend's cache."""

from dataclasses import dataclass

import torch

from headrace.attention.base import AttentionBatch, AttentionOptions
from headrace.layers.linear import Linear
from headrace.layers.norm import NormSpec, load_norm
from headrace.layers.operations import Activation, Angles, AttentionLayout, HeadNorm, Temperature
from headrace.layers.parameters import ParameterLoader
from headrace.layers.rope import RopeSpec
from headrace.quantization import LinearWeight
from headrace.weights import Slice


@dataclass(frozen=True, kw_only=True)
class HeadNormSpec:
    """How queries and keys are normalised before they rotate."""

    norm: NormSpec
    is_joint: bool = False
    """Over all heads together (OLMo 2); otherwise each head by itself."""
    has_weight_per_head: bool = False
    """Heads have weights of their own (Cohere); otherwise they share them."""


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """One attention layer."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    value_size: int | None = None
    """See `LayerShape`."""
    scale: float
    """Multiplies the scores; usually head_size^-0.5."""
    qkv_bias: bool = False
    output_bias: bool = False
    head_norm: HeadNormSpec | None = None
    rope: RopeSpec | None = None
    alibi_slopes: tuple[float, ...] | None = None
    """See `AttentionOptions`; one per head."""
    window: int | None = None
    chunk: int | None = None
    """See `AttentionOptions`."""
    has_sinks: bool = False
    """Each head has a learned sink (see `AttentionOptions`)."""
    soft_cap: float | None = None
    clip: float | None = None
    """Queries, keys and values are clamped to so much either side of 0 (OLMo, MPT)."""
    temperature: Temperature | None = None


class Attention:
    """[T, hidden_size] to [T, num_heads * head_size], and `output` back."""

    def __init__(self, load: ParameterLoader, prefix: str, layer: int, spec: AttentionSpec) -> None:
        query, key_value = (n * spec.head_size for n in (spec.num_heads, spec.num_kv_heads))
        heads, kv_heads = (
            load.shard.slice(spec.num_heads),
            load.shard.shared_slice(spec.num_kv_heads),
        )
        self.operations = load.operations
        self.qkv = Linear(
            load,
            [f"{prefix}.{name}_proj" for name in "qkv"],
            spec.hidden_size,
            [query, key_value, key_value],
            bias=spec.qkv_bias,
            outputs=[heads, kv_heads, kv_heads],
        )
        self.output = Linear(
            load,
            [f"{prefix}.o_proj"],
            query,
            [spec.hidden_size],
            bias=spec.output_bias,
            inputs=heads,
        )
        self.layout = AttentionLayout(
            layer=layer,
            num_heads=len(heads),
            num_kv_heads=len(kv_heads),
            head_size=spec.head_size,
            options=_options(load, prefix, spec, heads),
            head_norm=_head_norm(load, prefix, spec, heads, kv_heads),
            clip=spec.clip,
            temperature=spec.temperature,
        )

    @property
    def input_weight(self) -> LinearWeight:
        """The weight that reads the layer's input."""
        return self.qkv.weight

    def __call__(self, x: Activation, angles: Angles, batch: AttentionBatch) -> Activation:
        """`angles`: None in a layer without rotary embedding. The result is `output`'s input."""
        return self.operations.attend(self.qkv(x), angles, batch, self.layout, self.output.weight)


def _options(
    load: ParameterLoader, prefix: str, spec: AttentionSpec, heads: Slice
) -> AttentionOptions:
    slopes = None if spec.alibi_slopes is None else spec.alibi_slopes[heads.start : heads.stop]
    sinks = None
    if spec.has_sinks:
        sinks = load.tensor(f"{prefix}.sinks", (spec.num_heads,), torch.float32, heads)
    return AttentionOptions(
        scale=spec.scale,
        window=spec.window,
        soft_cap=spec.soft_cap,
        alibi_slopes=None if slopes is None else torch.tensor(slopes, device=load.device),
        sinks=sinks,
        chunk=spec.chunk,
    )


def _norm_shape(norm: HeadNormSpec, num_heads: int, head_size: int) -> tuple[int, ...]:
    if norm.is_joint:
        return (num_heads * head_size,)
    return (num_heads, head_size) if norm.has_weight_per_head else (head_size,)


def _head_norm(
    load: ParameterLoader, prefix: str, spec: AttentionSpec, heads: Slice, kv_heads: Slice
) -> HeadNorm | None:
    norm, size = spec.head_norm, spec.head_size
    if norm is None:
        return None
    is_shared = not (norm.is_joint or norm.has_weight_per_head)
    query, key = (
        load_norm(
            load,
            f"{prefix}.{name}_norm",
            _norm_shape(norm, share.total, size),
            norm.norm,
            None if is_shared else share,
        )
        for name, share in (("q", heads), ("k", kv_heads))
    )
    return HeadNorm(query, key, norm.is_joint)
