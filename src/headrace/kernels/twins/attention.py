"""The twin of `kernels.ops.Attention`."""

import torch
from torch import Tensor

from headrace.kernels.ops import Attention
from headrace.kernels.tensors import BLOCK_SIZE, AttentionOptions, LayerCache
from headrace.kernels.twins.values import check_range, held_as_bytes, put


def attention(op: Attention, count: int) -> None:
    cache = op.cache
    starts, contexts = op.query_start.tolist(), op.context_lens.tolist()
    _check_batch(starts[: count + 1], contexts[:count], len(op.qkv), op.block_table.shape[1])
    out = torch.zeros(starts[count], op.num_heads * cache.value_size)
    for s in range(count):
        first, last, context = starts[s], starts[s + 1], contexts[s]
        blocks = op.block_table[s, : -(-context // BLOCK_SIZE)].long()
        check_range(blocks, cache.num_blocks, "a block id is outside the cache")
        keys, values = _read(cache, blocks)
        query = op.qkv[first:last, : op.num_heads * cache.head_size]
        query = query.unflatten(1, (op.num_heads, -1)).transpose(0, 1)
        result = _attend(query, keys[:, :context], values[:, :context], op.options)
        out[first:last] = result.transpose(0, 1).flatten(1)
    put(out, op.out)


def _read(cache: LayerCache, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [kv heads, tokens, D] of these blocks, as float32."""
    dtype = cache.keys.dtype
    keys = held_as_bytes(cache.keys)[blocks, :, : cache.head_size].view(dtype).float()
    values = held_as_bytes(cache.values)[blocks][..., : cache.value_size].view(dtype).float()
    keys, values = keys.transpose(2, 3) * cache.key_scale, values * cache.value_scale
    if cache.key_scales is not None and cache.value_scales is not None:
        keys = keys * cache.key_scales[blocks][..., None]
        values = values * cache.value_scales[blocks][..., None]
    return keys.transpose(0, 1).flatten(1, 2), values.transpose(0, 1).flatten(1, 2)


def _check_batch(starts: list[int], contexts: list[int], num_tokens: int, width: int) -> None:
    for first, last, context in zip(starts, starts[1:], contexts, strict=False):
        fits = 0 <= first <= last <= num_tokens and last - first <= context <= width * BLOCK_SIZE
        if not fits:
            raise ValueError(
                "query_start and context_lens do not fit the batch and its block table"
            )


def _attend(query: Tensor, keys: Tensor, values: Tensor, options: AttentionOptions) -> Tensor:
    """query [heads, T, D], keys and values [kv heads, context, D or value size], the result too."""
    group = query.shape[0] // keys.shape[0]
    keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    scores = query @ keys.transpose(1, 2) * options.scale
    if options.soft_cap is not None:
        scores = options.soft_cap * torch.tanh(scores / options.soft_cap)
    num_tokens, context = scores.shape[1:]
    others = torch.arange(context)
    positions = others[context - num_tokens :, None]
    distance = positions - others
    if options.alibi_slopes is not None:
        scores = scores - options.alibi_slopes.view(-1, 1, 1) * distance
    hidden = distance < 0
    if options.window is not None:
        hidden = hidden | (distance >= options.window)
    if options.chunk is not None:
        hidden = hidden | (others // options.chunk != positions // options.chunk)
    scores = scores.masked_fill(hidden, -torch.inf)
    if options.sinks is not None:
        sinks = options.sinks.view(-1, 1, 1).expand(-1, num_tokens, 1)
        scores = torch.cat((scores, sinks), dim=-1)
    return scores.softmax(-1)[..., :context] @ values
