"""What every attention backend is given, and what it must do.

The runner fills one `AttentionBatch` per step; all layers read it. A backend owns the KV cache's
tensors and their layout; nobody else touches them.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headrace.kernels import AttentionOptions as AttentionOptions
from headrace.kernels import Kernels


@dataclass(slots=True)
class AttentionBatch:
    """One step's ragged batch: T tokens of S sequences, sequence s owning the tokens
    `query_start[s] : query_start[s + 1]`, which are the last ones of its context."""

    positions: Tensor
    """[T] int32, position of each token in its sequence."""
    slot_mapping: Tensor
    """[T] int64, block id * block size + offset: where each token's key and value go."""
    query_start: Tensor
    """[S + 1] int32."""
    context_lens: Tensor
    """[S] int32, tokens in the cache after this step, this step's included."""
    block_table: Tensor
    """[S, B] int32, block ids in order; entries past the context are arbitrary."""
    max_query_len: int
    max_context_len: int
    num_prompt_tokens: int = 0
    """The last so many of the T tokens stand at prompt positions; only told to models that compute
    those otherwise."""
    needs_all_logits: bool = False
    """The logits of all tokens will be asked for; only told to models that compute them at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """The sizes of one layer's attention."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    value_size: int | None = None
    """Values are the first so many elements of the keys, and not cached by themselves (multi-head
    latent attention); None: they are as long as keys."""

    @property
    def cached_elements(self) -> int:
        """Numbers that the cache holds for each token."""
        vectors = 2 if self.value_size is None else 1
        return vectors * self.num_kv_heads * self.head_size


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """What a model needs from a backend."""

    layers: tuple[LayerShape, ...]
    """In their order; they may differ."""
    dtype: torch.dtype
    """Of queries, keys and values as the layers compute them."""
    kv_dtype: torch.dtype
    """Of the cache."""
    device: torch.device
    has_soft_cap: bool = False
    has_alibi: bool = False
    has_sinks: bool = False
    has_chunks: bool = False
    """Some layer asks for it (see `AttentionOptions`)."""
    kernels: Kernels | None = None
    """CPU kernels that the model runs on; None: plain torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheScales:
    """What one layer's keys and values are divided by before a cache of 8-bit floats takes them."""

    key: float = 1.0
    value: float = 1.0


class AttentionBackend(Protocol):
    """Keys and values in, attention out, for one model on one device."""

    block_size: int
    """Tokens per block."""

    def __init__(self, shape: AttentionShape) -> None:
        """`unsupported(shape)` is None."""

    @staticmethod
    def unsupported(shape: AttentionShape) -> str | None:
        """Why this backend cannot serve such a model; None if it can."""
        ...

    def bytes_per_block(self) -> int:
        """Of all layers together."""
        ...

    def allocate(self, num_blocks: int) -> None:
        """Make the cache, zeroed. Called once, after the model's weights are in memory."""
        ...

    def forward(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: AttentionBatch,
        options: AttentionOptions,
    ) -> Tensor:
        """Write this step's keys and values, then attend causally over each whole context.

        query [T, num_heads, head_size], key and value [T, num_kv_heads, head_size], rotary
        embedding applied; returns [T, num_heads * head_size]. With a `value_size` that is the size
        of value and result. All sizes are the layer's.
        """
        ...
