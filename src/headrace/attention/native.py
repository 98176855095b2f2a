"""Attention with the CPU kernels, over a cache in their layout."""

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch, AttentionOptions, AttentionShape
from headrace.kernels import BLOCK_SIZE, LayerCache
from headrace.kernels.tensors import CACHE_DTYPES

HEAD_SIZE_MULTIPLE = 16


class NativeBackend:
    """See `attention.base.AttentionBackend`. The recorded decoder reads `caches` directly."""

    block_size = BLOCK_SIZE

    def __init__(self, shape: AttentionShape) -> None:
        assert shape.kernels is not None
        self.shape = shape
        self.kernels = shape.kernels
        self.caches: list[LayerCache] = []

    @staticmethod
    def unsupported(shape: AttentionShape) -> str | None:
        if shape.kernels is None:
            return "needs the CPU kernels"
        if shape.head_size % HEAD_SIZE_MULTIPLE:
            return f"needs a head size in multiples of {HEAD_SIZE_MULTIPLE}, not {shape.head_size}"
        if shape.has_sinks or shape.has_chunks or shape.value_size is not None:
            return "has neither sinks, chunks nor values within the keys"
        if shape.kv_dtype not in CACHE_DTYPES:
            return f"cannot cache {shape.kv_dtype}"
        return None

    def bytes_per_block(self) -> int:
        shape = self.shape
        vectors = 2 * shape.num_layers * BLOCK_SIZE * shape.num_kv_heads
        scale_bytes = 4 if shape.kv_dtype == torch.int8 else 0
        return vectors * (shape.head_size * shape.kv_dtype.itemsize + scale_bytes)

    def allocate(self, num_blocks: int) -> None:
        shape = self.shape
        sizes = (num_blocks, shape.num_kv_heads, shape.head_size)
        self.caches = [
            self.kernels.empty_cache(*sizes, shape.kv_dtype) for _ in range(shape.num_layers)
        ]

    def forward(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: AttentionBatch,
        options: AttentionOptions,
    ) -> Tensor:
        qkv = torch.cat([part.flatten(1) for part in (query, key, value)], dim=1)
        cache, num_heads = self.caches[layer], self.shape.num_heads
        self.kernels.rope_write(
            qkv, batch.positions, batch.slot_mapping, cache, num_heads=num_heads
        )
        out = torch.empty(len(qkv), num_heads * self.shape.head_size)
        self.kernels.attention(
            qkv,
            cache,
            batch.query_start,
            batch.context_lens,
            batch.block_table,
            out,
            num_heads=num_heads,
            scale=options.scale,
            window=options.window,
            soft_cap=options.soft_cap,
            alibi_slopes=options.alibi_slopes,
        )
        return out
