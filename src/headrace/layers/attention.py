"""Self-attention with grouped query heads; keys and values live in the backend's cache."""

from dataclasses import dataclass

from torch import Tensor

from headrace.attention.base import AttentionBatch, AttentionOptions
from headrace.layers.linear import Linear
from headrace.layers.operations import Activation, Angles, AttentionLayout, HeadNorm
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """The sizes of one attention layer."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    qkv_bias: bool
    output_bias: bool
    qk_norm_epsilon: float | None
    """Queries and keys are normalised per head (Qwen3); None: they are not."""
    window: int | None
    """See `AttentionOptions`."""


class Attention:
    """[T, hidden_size] to [T, hidden_size], added to the residual stream."""

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
            options=AttentionOptions(scale=spec.head_size**-0.5, window=spec.window),
            head_norm=_head_norm(load, prefix, spec),
        )

    @property
    def input_weight(self) -> LinearWeight:
        """The weight that reads the layer's input."""
        return self.qkv.weight

    def __call__(
        self, x: Activation, residual: Tensor, angles: Angles, batch: AttentionBatch
    ) -> Tensor:
        attended = self.operations.attend(
            self.qkv(x), angles, batch, self.layout, self.output.weight
        )
        return self.output(attended, residual)


def _head_norm(load: ParameterLoader, prefix: str, spec: AttentionSpec) -> HeadNorm | None:
    if spec.qk_norm_epsilon is None:
        return None
    query, key = (load.tensor(f"{prefix}.{name}_norm.weight", (spec.head_size,)) for name in "qk")
    return HeadNorm(query, key, spec.qk_norm_epsilon)
