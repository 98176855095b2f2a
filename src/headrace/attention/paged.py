"""The reference backend: plain torch on any device. Slow next to kernels, easy to trust.

Decodes are computed together, padded to the longest context; prompts one by one in tiles.
"""

from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor
from torch.nn import functional

from headrace.attention.base import AttentionBatch, AttentionOptions, AttentionShape, CacheScales
from headrace.kernels.memory import zeroed

QUERY_TILE = 256
"""Queries of a prompt that attend at once: bounds the mask, and skips keys in their future."""
GATHERED_TOKENS = 1 << 16
"""Cached tokens, padding included, that decodes gather at once: bounds the copies."""


class PagedBackend:
    """Keys and values in [num_blocks * block_size, num_kv_heads, head_size] per layer.

    Values that are the first elements of their keys are a view of them.
    """

    block_size = 32

    def __init__(self, shape: AttentionShape) -> None:
        self.shape = shape
        self.scales = [CacheScales()] * len(shape.layers)
        """Only a cache of 8-bit floats may have others than 1."""
        self.keys: list[Tensor]
        self.values: list[Tensor]

    @staticmethod
    def unsupported(shape: AttentionShape) -> str | None:
        if not shape.kv_dtype.is_floating_point:
            return f"caches floats of 32, 16 or 8 bits, not {shape.kv_dtype}"
        return None

    def bytes_per_block(self) -> int:
        elements = sum(layer.cached_elements for layer in self.shape.layers)
        return self.block_size * elements * self.shape.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        shape, slots = self.shape, num_blocks * self.block_size
        self.keys, self.values = [], []
        for layer in shape.layers:
            sizes = (slots, layer.num_kv_heads, layer.head_size)
            keys = zeroed(sizes, shape.kv_dtype, shape.device)
            within_keys = None if layer.value_size is None else keys[..., : layer.value_size]
            self.keys.append(keys)
            self.values.append(
                zeroed(sizes, shape.kv_dtype, shape.device) if within_keys is None else within_keys
            )

    def forward(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: AttentionBatch,
        options: AttentionOptions,
    ) -> Tensor:
        keys, values, scales = self.keys[layer], self.values[layer], self.scales[layer]
        _store(key, keys, batch.slot_mapping, scales.key)
        if self.shape.layers[layer].value_size is None:
            _store(value, values, batch.slot_mapping, scales.value)
        options = replace(options, scale=options.scale * scales.key)
        output = query.new_empty(*query.shape[:2], value.shape[2])
        starts = batch.query_start.tolist()
        contexts = batch.context_lens.tolist()
        # Decodes come first; a lone token elsewhere is a prompt of length one.
        decodes = sum(1 for _ in takewhile(lambda s: starts[s + 1] == s + 1, range(len(contexts))))
        for first, last in _groups(contexts[:decodes]):
            rows = slice(first, last)
            lengths = batch.context_lens[rows]
            slots = self._slots(batch.block_table[rows], max(contexts[rows]))
            # Padding reads the sequence's own first token: another's could be NaN, and so
            # would be its product with the weight 0.
            padding = torch.arange(slots.shape[1], device=slots.device) >= lengths.unsqueeze(1)
            slots = torch.where(padding, slots[:, :1], slots)
            output[rows] = _decode(query[rows], keys[slots], values[slots], lengths - 1, options)
        for s in range(decodes, len(contexts)):
            slots = self._slots(batch.block_table[s : s + 1], contexts[s])[0]
            rows = slice(starts[s], starts[s + 1])
            _prefill(query[rows], keys[slots], values[slots], options, output[rows])
        return output.mul_(scales.value).flatten(1)

    def _slots(self, block_table: Tensor, length: int) -> Tensor:
        """Where the first `length` tokens of each sequence lie, [S, length]."""
        blocks = block_table[:, : -(-length // self.block_size)]
        offsets = torch.arange(self.block_size, device=blocks.device)
        slots = blocks.long().unsqueeze(-1) * self.block_size + offsets
        return slots.flatten(1)[:, :length]


def _store(states: Tensor, cache: Tensor, slots: Tensor, scale: float = 1.0) -> None:
    """states [T, kv_heads, D] to rows `slots` of the cache; 8 bits hold them divided by `scale`,
    and clamped to their range."""
    if cache.itemsize > 1:
        cache.index_copy_(0, slots, states.to(cache.dtype))
        return
    largest = torch.finfo(cache.dtype).max
    narrow = (states / scale).clamp(-largest, largest).to(cache.dtype)
    # As bytes: torch cannot copy 8-bit floats by index everywhere.
    cache.view(torch.uint8).index_copy_(0, slots, narrow.view(torch.uint8))


def _groups(contexts: list[int]) -> list[tuple[int, int]]:
    """Split decodes into runs [first, last) whose padded contexts stay within GATHERED_TOKENS."""
    groups, first, longest = [], 0, 0
    for s, context in enumerate(contexts):
        longest = max(longest, context)
        if s > first and (s + 1 - first) * longest > GATHERED_TOKENS:
            groups.append((first, s))
            first, longest = s, context
    return [*groups, (first, len(contexts))] if contexts else []


def _mask(
    queries: Tensor, keys: Tensor, options: AttentionOptions, heads: tuple[int, ...]
) -> Tensor:
    """Which key positions [C] each query position [..., 1] sees: bool, or with ALiBi float32, to
    be added to the scores. `heads`: shape in which its slopes broadcast to the scores."""
    visible = keys <= queries
    if options.window is not None:
        visible = visible & (keys > queries - options.window)
    if options.chunk is not None:
        visible = visible & (keys >= queries - queries % options.chunk)
    if options.alibi_slopes is None:
        return visible
    slopes = options.alibi_slopes.view(heads)
    return torch.where(visible, slopes * (keys - queries), float("-inf"))


def _decode(
    query: Tensor, keys: Tensor, values: Tensor, positions: Tensor, options: AttentionOptions
) -> Tensor:
    """One token per sequence: query [S, heads, D] over keys and values [S, C, kv_heads, D].

    The query heads that share a key head take the place of several query tokens.
    """
    grouped = query.unflatten(1, (keys.shape[2], -1))
    key_positions = torch.arange(keys.shape[1], device=keys.device)
    heads = (*grouped.shape[1:3], 1)
    mask = _mask(positions.view(-1, 1, 1, 1), key_positions, options, heads)
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    return _attend(grouped, keys, values, mask, options, heads).flatten(1, 2)


def _prefill(
    query: Tensor, keys: Tensor, values: Tensor, options: AttentionOptions, output: Tensor
) -> None:
    """The last Q tokens of one context: query [Q, heads, D], keys and values [C, kv_heads, D]."""
    length, context = len(query), len(keys)
    grouped = query.unflatten(1, (keys.shape[1], -1)).permute(1, 2, 0, 3)
    keys, values = (x.transpose(0, 1).unsqueeze(1) for x in (keys, values))
    positions = torch.arange(context, device=query.device)
    heads = (*grouped.shape[:2], 1, 1)
    for start in range(0, length, QUERY_TILE):
        stop = min(start + QUERY_TILE, length)
        low, high = context - length + start, context - length + stop
        first = _first_key(low, options)
        mask = _mask(positions[low:high, None], positions[first:high], options, heads)
        tile = _attend(
            grouped[:, :, start:stop], keys[:, :, first:high], values[:, :, first:high],
            mask, options, heads,
        )  # fmt: skip
        output[start:stop] = tile.permute(2, 0, 1, 3).flatten(1, 2)


def _first_key(query: int, options: AttentionOptions) -> int:
    """The first position that a query or a later one sees."""
    first = 0 if options.window is None else max(0, query + 1 - options.window)
    return first if options.chunk is None else max(first, query - query % options.chunk)


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    options: AttentionOptions,
    heads: tuple[int, ...],
) -> Tensor:
    """Softmax attention, query [A, B, Q, D], the rest broadcast to it; in the query's dtype.

    `heads`: as for `_mask`.
    """
    keys, values = keys.to(query.dtype), values.to(query.dtype)
    is_bool = mask.dtype == torch.bool
    if options.soft_cap is None and options.sinks is None:
        keys, values = (x.expand(*query.shape[:2], -1, -1) for x in (keys, values))
        mask = mask if is_bool else mask.to(query.dtype)
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=options.scale
        )
    scores = (query @ keys.transpose(-1, -2)).float() * options.scale
    if options.soft_cap is not None:
        scores = options.soft_cap * torch.tanh(scores / options.soft_cap)
    scores = scores.masked_fill(~mask, float("-inf")) if is_bool else scores + mask
    if options.sinks is not None:
        sinks = options.sinks.view(heads).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(-1)[..., : keys.shape[-2]]
    return weights.to(query.dtype) @ values
