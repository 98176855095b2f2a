"""The sizes of paged KV caches, and the check of one."""

import torch

from headrace.kernels.tensors import (
    BLOCK_SIZE,
    CACHE_DTYPES,
    LayerCache,
    check,
    check_choice,
    check_multiple,
)

MAX_HEAD_SIZE = 576
HEAD_MULTIPLE = 16
"""Features of one vector: caches pad heads to whole ones."""


def padded_head_size(size: int) -> int:
    """Elements that a cache has for a head's `size`."""
    return -(-size // HEAD_MULTIPLE) * HEAD_MULTIPLE


def check_head_sizes(head_size: int, value_size: int) -> None:
    if not 1 <= value_size <= head_size <= MAX_HEAD_SIZE:
        raise ValueError(
            f"head size {head_size}, value size {value_size}: values may be as long as keys or "
            f"shorter, keys up to {MAX_HEAD_SIZE}"
        )


def check_cache(cache: LayerCache, num_heads: int) -> None:
    """Raise ValueError unless it is whole, and so many query heads share its heads evenly."""
    dtype, blocks, heads = cache.keys.dtype, *cache.keys.shape[:2]
    check_choice(dtype, "cache dtype", CACHE_DTYPES)
    check_head_sizes(cache.head_size, cache.value_size)
    check_multiple("num_heads", num_heads, heads)
    key_width, value_width = map(padded_head_size, (cache.head_size, cache.value_size))
    check(cache.keys, "keys", dtype, blocks, heads, key_width, BLOCK_SIZE)
    check(cache.values, "values", dtype, blocks, heads, BLOCK_SIZE, value_width)
    if dtype == torch.int8:
        for scales in (cache.key_scales, cache.value_scales):
            if scales is None:
                raise ValueError("an int8 cache needs scales")
            check(scales, "scales", torch.float32, blocks, heads, BLOCK_SIZE)
