"""Attention over a paged cache, and what happens to queries, keys and values before it."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from headrace.kernels.cache import check_cache
from headrace.kernels.ops.op import Abilities, Op, check_optional
from headrace.kernels.tensors import (
    GROUP_SIZE,
    NORM_KINDS,
    Activation,
    AttentionOptions,
    HeadNorms,
    LayerCache,
    Rotary,
    check,
    check_activation,
    check_choice,
    check_equal,
    check_multiple,
)


@dataclass(frozen=True, slots=True)
class RopeWrite(Op):
    """Clamp, normalise, rotate queries and keys in place; write keys and values to the cache.

    qkv [T, (num_heads + 2 kv heads) * D]: all queries, all keys, all values; with a cache whose
    values are part of its keys [T, num_heads * D], and key [T, kv heads * D]. positions [T]
    int32, slot_mapping [T] int64 (block id * 32 + offset). Rotation pairs feature i with
    i + width / 2 (Hugging Face's order) unless `rotary` is interleaved. clip: all are clamped
    to so much either side of 0. temperature (interval, growth): queries are multiplied by
    log(1 + floor((position + 1) / interval)) * growth + 1.
    """

    qkv: Tensor
    positions: Tensor
    slot_mapping: Tensor
    cache: LayerCache
    _: KW_ONLY
    num_heads: int
    key: Tensor | None = None
    rotary: Rotary | None = None
    norms: HeadNorms | None = None
    clip: float | None = None
    temperature: tuple[float, float] | None = None

    def check(self, kernels: Abilities) -> int:
        check_cache(self.cache, self.num_heads)
        self._check_heads()
        check(self.positions, "positions", torch.int32, len(self.qkv))
        check(self.slot_mapping, "slot_mapping", torch.int64, len(self.qkv))
        if self.rotary is not None:
            _check_rotary(self.rotary, self.cache.head_size)
        if self.norms is not None:
            _check_norms(self.norms, self.num_heads, self.cache)
        if self.clip is not None and self.clip <= 0:
            raise ValueError("clip: must be positive")
        if self.temperature is not None and self.temperature[0] <= 0:
            raise ValueError("temperature: its interval must be positive")
        return len(self.qkv)

    def _check_heads(self) -> None:
        size, kv_width = self.cache.head_size, self.cache.num_kv_heads * self.cache.head_size
        if self.cache.has_own_values != (self.key is None):
            raise ValueError("key: needed if, and only if, values are part of the keys")
        width = self.num_heads * size + (2 * kv_width if self.key is None else 0)
        check(self.qkv, "qkv", torch.float32, None, width)
        check_optional(self.key, "key", torch.float32, len(self.qkv), kv_width)


@dataclass(frozen=True, slots=True)
class Attention(Op):
    """Causal attention of each token over its sequence's context, which ends with it.

    The first num_heads * D columns of qkv [T, any] are the queries; out [T, num_heads * value
    size], quantized only if the value size is a multiple of 32; query_start [S + 1], context_lens
    [S], block_table [S, B] int32. `rows` counts sequences.
    """

    qkv: Tensor
    cache: LayerCache
    query_start: Tensor
    context_lens: Tensor
    block_table: Tensor
    out: Activation
    _: KW_ONLY
    num_heads: int
    options: AttentionOptions

    def check(self, kernels: Abilities) -> int:
        check_cache(self.cache, self.num_heads)
        num_tokens, width = check_activation(self.out, "out")
        check_equal("out: columns", width, self.num_heads * self.cache.value_size)
        if not isinstance(self.out, Tensor):
            check_multiple("value size of a quantized out", self.cache.value_size, GROUP_SIZE)
        check(self.qkv, "qkv", torch.float32, num_tokens, None)
        if self.qkv.shape[1] < self.num_heads * self.cache.head_size:
            raise ValueError("qkv: narrower than the queries")
        check(self.context_lens, "context_lens", torch.int32, None)
        num_sequences = len(self.context_lens)
        check(self.query_start, "query_start", torch.int32, num_sequences + 1)
        check(self.block_table, "block_table", torch.int32, num_sequences, None)
        _check_options(self.options, self.num_heads)
        return num_sequences


def _check_rotary(rotary: Rotary, head_size: int) -> None:
    check(rotary.cos, "cos", torch.float32, None, None)
    check(rotary.sin, "sin", torch.float32, *rotary.cos.shape)
    if not 0 <= rotary.first <= head_size - 2 * rotary.cos.shape[1]:
        raise ValueError("cos: rotates more features than a head has")


def _check_norms(norms: HeadNorms, num_heads: int, cache: LayerCache) -> None:
    check_choice(norms.kind, "norm kind", NORM_KINDS)
    for name, weight, count in (
        ("query norm", norms.query, num_heads),
        ("key norm", norms.key, cache.num_kv_heads),
    ):
        heads = [count] if weight.dim() == 2 else []
        check(weight, name, torch.float32, *heads, cache.head_size)


def _check_options(options: AttentionOptions, num_heads: int) -> None:
    for name in ("window", "chunk", "soft_cap"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name}: must be positive")
    check_optional(options.alibi_slopes, "alibi_slopes", torch.float32, num_heads)
    check_optional(options.sinks, "sinks", torch.float32, num_heads)
