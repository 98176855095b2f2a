"""Multi-head latent attention (DeepSeek-AI 2024): the cache holds one latent vector per token.

In the absorbed form: what would turn latents into keys of each head is applied to the queries, and
what would turn them into values to the result. So all heads share one key, the latent beside a
rotated part, and its first elements are the value. In plain torch only, see
`layers.native.unsupported`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch, AttentionOptions
from headrace.layers.attention import AttentionSpec
from headrace.layers.linear import Linear
from headrace.layers.norm import NormSpec, load_norm
from headrace.layers.operations import Angles, TorchOperations, normalize
from headrace.layers.parameters import ParameterLoader
from headrace.layers.rope import rotate
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
        assert isinstance(load.operations, TorchOperations)
        assert spec.value_size is not None
        self.spec, self.layer, self.operations = spec, layer, load.operations
        self.heads = load.shard.slice(spec.num_heads)
        """Of this rank; all have the latents."""
        self.latent_size: int = spec.value_size
        self.rotary_size = spec.head_size - spec.value_size
        self._load_queries(load, prefix)
        self.latent = Linear(
            load,
            [f"{prefix}.kv_a_proj_with_mqa"],
            spec.hidden_size,
            [spec.head_size],
            bias=spec.qkv_bias,
        )
        latent_norm = f"{prefix}.kv_a_layernorm"
        self.latent_norm = load_norm(load, latent_norm, (self.latent_size,), spec.norm)
        self.key_up, self.value_up = self._load_heads(load, f"{prefix}.kv_b_proj")
        self.output = Linear(
            load,
            [f"{prefix}.o_proj"],
            spec.num_heads * spec.head_value_size,
            [spec.hidden_size],
            bias=spec.output_bias,
            inputs=self.heads,
        )
        self.options = AttentionOptions(scale=spec.scale)

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
        width = spec.num_heads * (spec.plain_size + self.rotary_size)
        self.query = Linear(load, [f"{prefix}.{name}"], size, [width], outputs=[self.heads])

    def _load_heads(self, load: ParameterLoader, name: str) -> tuple[Tensor, Tensor]:
        """From latents to each head's keys [heads, plain_size, latent] and values."""
        spec = self.spec
        sizes = [spec.plain_size, spec.head_value_size]
        width = spec.num_heads * sum(sizes)
        weight = load.linear([name], self.latent_size, [width], outputs=[self.heads])
        rows = weight.lookup(torch.arange(weight.out_features, device=load.device))
        load.nbytes += rows.nbytes - weight.nbytes
        key_up, value_up = rows.view(len(self.heads), -1, self.latent_size).split(sizes, dim=1)
        return key_up, value_up

    @property
    def input_weight(self) -> LinearWeight:
        """A weight that reads the layer's input."""
        return self.latent.weight

    def __call__(self, x: Tensor, angles: Angles, batch: AttentionBatch) -> Tensor:
        """The result is `output`'s input."""
        latents, key = self.latent(x).split([self.latent_size, self.rotary_size], dim=1)
        latents = normalize(latents, self.latent_norm)
        key = torch.cat((latents.unsqueeze(1), self._rotate(key.unsqueeze(1), angles)), dim=-1)
        query, value = self._queries(x, angles), latents.unsqueeze(1)
        backend = self.operations.backend
        attended = backend.forward(self.layer, query, key, value, batch, self.options)
        attended = attended.view(len(x), -1, self.latent_size)
        return torch.einsum("thl,hvl->thv", attended, self.value_up).flatten(1)

    def _queries(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Queries that meet latents, [T, heads, head_size]."""
        if self.query_down is not None:
            x = normalize(self.query_down(x), self.query_norm)
        queries = self.query(x).view(len(x), len(self.heads), -1)
        plain, rotary = queries.split([self.spec.plain_size, self.rotary_size], dim=-1)
        absorbed = torch.einsum("thp,hpl->thl", plain, self.key_up)
        return torch.cat((absorbed, self._rotate(rotary, angles)), dim=-1)

    def _rotate(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        if self.spec.is_interleaved:
            x = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return rotate(x, *angles)
