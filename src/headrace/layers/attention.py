"""Self-attention with grouped query heads; keys and values live in the backend's cache."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.attention.base import AttentionBackend, AttentionBatch, AttentionOptions
from headrace.layers.linear import Linear
from headrace.layers.norm import RMSNorm
from headrace.layers.parameters import ParameterLoader
from headrace.layers.rope import rotate


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

    def __init__(
        self,
        load: ParameterLoader,
        prefix: str,
        layer: int,
        spec: AttentionSpec,
        backend: AttentionBackend,
    ) -> None:
        self.layer = layer
        self.spec = spec
        self.backend = backend
        self.options = AttentionOptions(scale=spec.head_size**-0.5, window=spec.window)
        query, key_value = (n * spec.head_size for n in (spec.num_heads, spec.num_kv_heads))
        self.qkv = Linear(
            load,
            [f"{prefix}.{name}_proj" for name in "qkv"],
            spec.hidden_size,
            [query, key_value, key_value],
            bias=spec.qkv_bias,
        )
        self.output = Linear(
            load, [f"{prefix}.o_proj"], query, [spec.hidden_size], bias=spec.output_bias
        )
        self.qk_norm = self._qk_norm(load, prefix)

    def _qk_norm(self, load: ParameterLoader, prefix: str) -> RMSNorm | None:
        """One norm over all query and key heads: their weights differ, their statistics do not."""
        spec = self.spec
        if spec.qk_norm_epsilon is None:
            return None
        query = load.tensor(f"{prefix}.q_norm.weight", (spec.head_size,))
        key = load.tensor(f"{prefix}.k_norm.weight", (spec.head_size,))
        weight = torch.cat([query.expand(spec.num_heads, -1), key.expand(spec.num_kv_heads, -1)])
        return RMSNorm(weight, spec.qk_norm_epsilon)

    def __call__(
        self,
        x: Tensor,
        residual: Tensor,
        rotary: tuple[Tensor, Tensor],
        batch: AttentionBatch,
    ) -> Tensor:
        """`rotary`: cosines and sines of the tokens' positions."""
        spec = self.spec
        qkv = self.qkv(x).view(len(x), -1, spec.head_size)
        query_key, value = qkv.split([spec.num_heads + spec.num_kv_heads, spec.num_kv_heads], dim=1)
        if self.qk_norm is not None:
            query_key = self.qk_norm(query_key)
        query, key = rotate(query_key, *rotary).split([spec.num_heads, spec.num_kv_heads], dim=1)
        attended = self.backend.forward(self.layer, query, key, value, batch, self.options)
        return self.output(attended, residual)
