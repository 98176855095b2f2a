"""Attention with the CPU kernels, over a cache in their layout."""

from dataclasses import replace

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch, AttentionOptions, AttentionShape, CacheScales
from headrace.kernels import BLOCK_SIZE, LayerCache, ops
from headrace.kernels.cache import MAX_HEAD_SIZE, padded_head_size
from headrace.kernels.tensors import CACHE_DTYPES


class NativeBackend:
    """See `attention.base.AttentionBackend`. The recorded decoder reads `caches` directly."""

    block_size = BLOCK_SIZE

    def __init__(self, shape: AttentionShape) -> None:
        assert shape.kernels is not None
        self.shape = shape
        self.kernels = shape.kernels
        self.caches: list[LayerCache] = []
        self.scales = [CacheScales()] * len(shape.layers)
        """Only a cache of 8-bit floats may have others than 1."""

    @staticmethod
    def unsupported(shape: AttentionShape) -> str | None:
        if shape.kernels is None:
            return "needs the CPU kernels"
        if (largest := max(layer.head_size for layer in shape.layers)) > MAX_HEAD_SIZE:
            return f"needs a head size up to {MAX_HEAD_SIZE}, not {largest}"
        if shape.kv_dtype not in CACHE_DTYPES:
            return f"cannot cache {shape.kv_dtype}"
        return None

    def bytes_per_block(self) -> int:
        kv_dtype = self.shape.kv_dtype
        scale_bytes = 4 if kv_dtype == torch.int8 else 0
        return BLOCK_SIZE * sum(
            layer.num_kv_heads * (padded_head_size(size) * kv_dtype.itemsize + scale_bytes)
            for layer in self.shape.layers
            for size in (layer.head_size, layer.value_size or layer.head_size)
        )

    def allocate(self, num_blocks: int) -> None:
        self.caches = [
            replace(
                self.kernels.empty_cache(
                    num_blocks,
                    layer.num_kv_heads,
                    layer.head_size,
                    self.shape.kv_dtype,
                    layer.value_size,
                ),
                key_scale=scales.key,
                value_scale=scales.value,
            )
            for layer, scales in zip(self.shape.layers, self.scales, strict=True)
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
        cache, num_heads = self.caches[layer], self.shape.layers[layer].num_heads
        # What the kernels prepare in place are copies.
        parts = (query, key, value) if cache.has_own_values else (query,)
        qkv = torch.cat([part.flatten(1) for part in parts], dim=1)
        own_key = None if cache.has_own_values else key.flatten(1).contiguous()
        self.kernels.run(
            ops.RopeWrite(
                qkv, batch.positions, batch.slot_mapping, cache, num_heads=num_heads, key=own_key
            )
        )
        out = torch.empty(len(qkv), num_heads * cache.value_size)
        self.kernels.run(
            ops.Attention(
                qkv,
                cache,
                batch.query_start,
                batch.context_lens,
                batch.block_table,
                out,
                num_heads=num_heads,
                options=options,
            )
        )
        return out
