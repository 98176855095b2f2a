"""The twin of `kernels.ops.RopeWrite`."""

import torch
from torch import Tensor

from headrace.kernels.ops import RopeWrite
from headrace.kernels.tensors import BLOCK_SIZE, FLOAT8_DTYPES, HeadNorms, LayerCache, Rotary
from headrace.kernels.twins.pointwise import rms_norm
from headrace.kernels.twins.values import check_range, held_as_bytes, round_to_int8


def rope_write(op: RopeWrite, count: int) -> None:
    slots, at = op.slot_mapping[:count], op.positions[:count].long()
    check_range(slots, op.cache.num_blocks * BLOCK_SIZE, "a slot is outside the cache")
    query, key, value = _heads(op, count)
    if op.clip is not None:
        for part in (query, key, value):
            part.clamp_(-op.clip, op.clip)
    if op.norms is not None:
        for part, weight in ((query, op.norms.query), (key, op.norms.key)):
            part.copy_(_norm_heads(part, weight, op.norms))
    if op.rotary is not None:
        check_range(at, len(op.rotary.cos), "a position is outside the rotary table")
        for part in (query, key):
            part.copy_(_rotate(part, op.rotary, at))
    if op.temperature is not None:
        steps = ((at + 1).float() / op.temperature[0]).floor()
        query.mul_((steps.log1p() * op.temperature[1] + 1).view(-1, 1, 1))
    _write(op.cache, slots, key, value)


def _heads(op: RopeWrite, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first `count` queries, keys and values [T, heads, D], as views."""
    cache = op.cache
    heads = op.qkv[:count].unflatten(1, (-1, cache.head_size))
    if op.key is not None:
        keys = op.key[:count].unflatten(1, (-1, cache.head_size))
        return heads, keys, keys[..., : cache.value_size]
    kv_heads = cache.num_kv_heads
    query, keys, values = heads.split([op.num_heads, kv_heads, kv_heads], 1)
    return query, keys, values


def _norm_heads(x: Tensor, weight: Tensor, norms: HeadNorms) -> Tensor:
    """x [T, heads, D], weight [D] or [heads, D]."""
    if norms.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    return rms_norm(x, weight, norms.epsilon)


def _rotate(x: Tensor, rotary: Rotary, positions: Tensor) -> Tensor:
    """x [T, heads, D]."""
    half = rotary.cos.shape[1]
    cos, sin = rotary.cos[positions, None], rotary.sin[positions, None]
    before, middle, behind = x.split(
        [rotary.first, 2 * half, x.shape[-1] - rotary.first - 2 * half], -1
    )
    if rotary.is_interleaved:
        a, b = middle[..., ::2], middle[..., 1::2]
    else:
        a, b = middle.chunk(2, -1)
    return torch.cat([before, a * cos - b * sin, b * cos + a * sin, behind], -1)


def _write(cache: LayerCache, slots: Tensor, key: Tensor, value: Tensor) -> None:
    """Put key [T, kv heads, D] and value at their slots."""
    block, offset = slots // BLOCK_SIZE, slots % BLOCK_SIZE
    if cache.key_scales is not None and cache.value_scales is not None:
        key, key_scales = round_to_int8(key)
        value, value_scales = round_to_int8(value)
        cache.key_scales[block, :, offset] = key_scales[..., 0]
        cache.value_scales[block, :, offset] = value_scales[..., 0]
    keys = cache.keys[:, :, : cache.head_size]
    held_as_bytes(keys)[block, :, :, offset] = _held(key, keys.dtype, cache.key_scale)
    values = cache.values[..., : cache.value_size]
    held_as_bytes(values)[block, :, offset] = _held(value, values.dtype, cache.value_scale)


def _held(states: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    if dtype not in FLOAT8_DTYPES:
        return states.to(dtype)
    largest = torch.finfo(dtype).max
    return held_as_bytes((states / scale).clamp(-largest, largest).to(dtype))
