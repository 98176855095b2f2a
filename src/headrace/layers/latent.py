"""Multi-head latent attention (DeepSeek-AI 2024): the cache holds one latent vector per token.

In the absorbed form: what would turn latents into keys of each head is applied to the queries, and
what would turn them into values to the result. So all heads share one key, the latent beside a
rotated part, and its first elements are the value.
"""

from dataclasses import dataclass

import torch

from headrace.attention.base import AttentionBatch, AttentionOptions
from headrace.layers.attention import AttentionSpec
from headrace.layers.linear import Linear
from headrace.layers.norm import NormSpec, load_norm
from headrace.layers.operations import Activation, Angles, AttentionLayout, LatentHeads
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight


@dataclass(frozen=True, kw_only=True)
class LatentAttentionSpec(AttentionSpec):
    """One layer. Of the inherited fields num_kv_heads is 1, value_size is the latent's size, and
    head_size that of the latent and the rotated part."""

    query_rank: int | None
    """Size of the vector that queries are made from; None: from the layer's input."""
    plain_size: int
    """Elements of each head's query that do not rotate."""
    head_value_size: int
    """Elements of each head's value, made from the latent."""
    norm: NormSpec
    """Of latents, and of what queries are made from."""
    is_interleaved: bool
    """Neighbouring elements rotate together."""


class LatentAttention:
    """[T, hidden_size] to [T, num_heads * head_value_size], and `output` back."""

    def __init__(
        self, load: ParameterLoader, prefix: str, layer: int, spec: LatentAttentionSpec
    ) -> None:
        assert spec.value_size is not None
        self.spec, self.operations = spec, load.operations
        self.share = load.shard.slice(spec.num_heads)
        """Of the heads, this rank's; all ranks have the latents."""
        self.latent_size: int = spec.value_size
        self._load_queries(load, prefix)
        self.latent = Linear(
            load,
            [f"{prefix}.kv_a_proj_with_mqa"],
            spec.hidden_size,
            [spec.head_size],
            bias=spec.qkv_bias,
        )
        self.heads = self._load_heads(load, prefix)
        self.output = Linear(
            load,
            [f"{prefix}.o_proj"],
            spec.num_heads * spec.head_value_size,
            [spec.hidden_size],
            bias=spec.output_bias,
            inputs=self.share,
        )
        self.layout = AttentionLayout(
            layer=layer,
            num_heads=len(self.share),
            num_kv_heads=1,
            head_size=spec.head_size,
            value_size=spec.value_size,
            options=AttentionOptions(scale=spec.scale),
        )

    def _load_queries(self, load: ParameterLoader, prefix: str) -> None:
        spec = self.spec
        name, size = "q_proj", spec.hidden_size
        self.query_down: Linear | None = None
        if spec.query_rank is not None:
            self.query_down = Linear(
                load, [f"{prefix}.q_a_proj"], size, [spec.query_rank], bias=spec.qkv_bias
            )
            name, size = "q_b_proj", spec.query_rank
            self.query_norm = load_norm(load, f"{prefix}.q_a_layernorm", (size,), spec.norm)
        width = spec.num_heads * (spec.plain_size + spec.head_size - self.latent_size)
        self.query = Linear(load, [f"{prefix}.{name}"], size, [width], outputs=[self.share])

    def _load_heads(self, load: ParameterLoader, prefix: str) -> LatentHeads:
        spec, operations = self.spec, self.operations
        norm = load_norm(load, f"{prefix}.kv_a_layernorm", (self.latent_size,), spec.norm)
        sizes = [spec.plain_size, spec.head_value_size]
        width = spec.num_heads * sum(sizes)
        names, outputs = [f"{prefix}.kv_b_proj"], [self.share]
        weight = load.linear(names, self.latent_size, [width], outputs=outputs)
        rows = weight.lookup(torch.arange(weight.out_features, device=load.device))
        keys, values = rows.view(len(self.share), -1, self.latent_size).split(sizes, dim=1)
        key, key_bytes = operations.block_weight(keys.transpose(1, 2).contiguous(), weight)
        value, value_bytes = operations.block_weight(values.contiguous(), weight)
        load.nbytes += key_bytes + value_bytes - weight.nbytes
        return LatentHeads(norm, key, value, spec.is_interleaved)

    @property
    def input_weight(self) -> LinearWeight:
        """A weight that reads the layer's input."""
        return self.latent.weight

    def __call__(self, x: Activation, angles: Angles, batch: AttentionBatch) -> Activation:
        """The result is `output`'s input."""
        latents = self.latent(x, is_kept=True)
        if self.query_down is not None:
            x = self.operations.norm(self.query_down(x), self.query_norm, self.query.weight)
        return self.operations.attend_latents(
            self.query(x), latents, angles, batch, self.layout, self.heads, self.output.weight
        )
