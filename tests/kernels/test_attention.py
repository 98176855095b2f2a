"""Rotary embedding, cache writes and paged attention, against plain formulas and the twins."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.tensors import (
    BLOCK_SIZE,
    CACHE_DTYPES,
    FLOAT8_DTYPES,
    HeadNorms,
    Rotary,
    Split,
)
from tests.kernels.samples import (
    Ragged,
    attend,
    attention_op,
    fill,
    in_order,
    ragged,
    rotary,
)

HEADS = [(9, 3, 64), (4, 4, 80), (8, 2, 128), (2, 1, 256), (16, 1, 96), (13, 1, 16), (3, 1, 50)]
DTYPES = CACHE_DTYPES
TOLERANCE = {
    torch.float32: 3e-6,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
    torch.int8: 5e-2,
    torch.float8_e4m3fn: 0.2,
    torch.float8_e5m2: 0.4,
}
STEPS = {torch.float32: 2e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.int8: 1}


def reference(
    batch: Ragged,
    window: int | None = None,
    soft_cap: float | None = None,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """One position at a time in float64, without a cache."""
    num_heads, num_kv_heads, size = batch.heads
    outs, start = [], 0
    table = rotary(size)
    for queries, context in zip(batch.query_lens, batch.context_lens, strict=True):
        heads = batch.qkv[start : start + context].double().unflatten(1, (-1, size))
        start += context
        cos, sin = table.cos[:context, None].double(), table.sin[:context, None].double()
        a, b = heads.chunk(2, -1)
        rotated = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        for position in range(context - queries, context):
            first = 0 if window is None else max(0, position + 1 - window)
            first = first if chunk is None else max(first, position // chunk * chunk)
            for head in range(num_heads):
                kv_head = head // (num_heads // num_kv_heads)
                keys = rotated[first : position + 1, num_heads + kv_head]
                values = keys[:, : batch.value_size]
                if batch.value_size is None:
                    values = heads[first : position + 1, num_heads + num_kv_heads + kv_head]
                scores = keys @ rotated[position, head] * size**-0.5
                if soft_cap is not None:
                    scores = soft_cap * torch.tanh(scores / soft_cap)
                if alibi_slopes is not None:
                    distances = position - torch.arange(first, position + 1)
                    scores = scores - alibi_slopes[head].double() * distances
                if sinks is not None:
                    scores = torch.cat((scores, sinks[head].double().view(1)))
                outs.append(scores.softmax(0)[: len(values)] @ values)
    return torch.stack(outs).view(sum(batch.query_lens), -1)


@cache
def sample(
    query_lens: tuple[int, ...],
    context_lens: tuple[int, ...],
    heads: tuple[int, int, int],
    value_size: int | None = None,
) -> tuple[Ragged, Tensor]:
    """A batch, and what attention makes of it, for all kernels and types of cache."""
    batch = ragged(list(query_lens), list(context_lens), heads, value_size)
    return batch, reference(batch)


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_shapes_and_dtypes(
    kernels: Kernels, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    batch, wanted = sample((1, 5, 1, 33), (1, 40, 300, 33), heads)
    out = attend(kernels, batch, fill(kernels, batch, dtype))
    assert float((out - wanted).abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("window", "soft_cap"), [(1, None), (20, None), (256, None), (400, 5.0), (None, 1.5)]
)
def test_window_and_soft_cap(kernels: Kernels, window: int | None, soft_cap: float | None) -> None:
    batch = ragged([1, 10, 30], [290, 600, 30], (6, 2, 32))
    filled = fill(kernels, batch, torch.float32)
    out = attend(kernels, batch, filled, window=window, soft_cap=soft_cap)
    assert float((out - reference(batch, window, soft_cap)).abs().max()) < 5e-6


@pytest.mark.parametrize("window", [None, 40])
def test_alibi(kernels: Kernels, window: int | None) -> None:
    batch = ragged([1, 10, 30], [290, 600, 30], (6, 2, 32))
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.7, 0.3])
    filled = fill(kernels, batch, torch.float32)
    out = attend(kernels, batch, filled, window=window, alibi_slopes=slopes)
    assert float((out - reference(batch, window, alibi_slopes=slopes)).abs().max()) < 5e-6


@pytest.mark.parametrize("window", [None, 40])
def test_sinks(kernels: Kernels, window: int | None) -> None:
    batch = ragged([1, 10, 30], [290, 600, 30], (6, 2, 32))
    sinks = torch.tensor([0.5, -4.0, 30.0, 2.0, -80.0, 6.0])
    out = attend(kernels, batch, fill(kernels, batch, torch.float32), window=window, sinks=sinks)
    assert float((out - reference(batch, window, sinks=sinks)).abs().max()) < 5e-6


@pytest.mark.parametrize("chunk", [1, 24, 256, 300, 1000])
def test_chunks_of_positions(kernels: Kernels, chunk: int) -> None:
    batch = ragged([1, 10, 30], [290, 600, 30], (6, 2, 32))
    out = attend(kernels, batch, fill(kernels, batch, torch.float32), chunk_size=chunk)
    assert float((out - reference(batch, chunk=chunk)).abs().max()) < 5e-6


@pytest.mark.parametrize("heads", [(16, 1, 576), (5, 1, 40), (33, 1, 96)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_within_keys(
    kernels: Kernels, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """Multi-head latent attention: the first of 576 features are the value, too."""
    value_size = {576: 512, 96: 64}.get(heads[2], 24)
    batch, wanted = sample((1, 5, 33), (1, 300, 33), heads, value_size)
    out = attend(kernels, batch, fill(kernels, batch, dtype))
    assert float((out - wanted).abs().max()) < 1.5 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_native_and_twin_write_the_same_cache(
    native: Kernels, twins: Kernels, dtype: torch.dtype
) -> None:
    batch = ragged([1, 5], [40, 70], (4, 2, 64))
    caches = [in_order(k, fill(k, batch, dtype)[1]) for k in (native, twins)]
    step = STEPS.get(dtype, torch.finfo(dtype).eps if dtype.is_floating_point else 0)
    for part in ("keys", "values"):
        a, b = (getattr(cache, part).double() for cache in caches)
        assert float((a - b).abs().max()) <= step * max(1.0, float(b.abs().max()))
        assert float((a != b).double().mean()) < 1e-2 or dtype == torch.float32


@pytest.mark.parametrize("dtype", FLOAT8_DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_floats_of_8_bits_are_rounded_as_torch_does(
    kernels: Kernels, dtype: torch.dtype, scale: float
) -> None:
    """Every float16 number, every number between two of theirs, and others at random."""
    halves = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).float().sort().values
    codes = codes[codes.isfinite()]
    noise = torch.randint(-(2**31), 2**31, (1 << 16,), dtype=torch.int32).view(torch.float32)
    values = torch.cat((halves, (codes[1:] + codes[:-1]) / 2 * scale, noise))
    values = values[values.isfinite()]
    tokens = len(values) // 192
    qkv = values[: tokens * 192].view(tokens, 192).clone()
    cache = kernels.empty_cache(-(-tokens // BLOCK_SIZE), 1, 64, dtype)
    cache = replace(cache, key_scale=scale, value_scale=scale)
    slots, positions = torch.arange(tokens), torch.zeros(tokens, dtype=torch.int32)
    wanted = qkv[:, 64:] / scale
    kernels.run(ops.RopeWrite(qkv, positions, slots, cache, num_heads=1))
    largest = torch.finfo(dtype).max
    wanted = wanted.clamp(-largest, largest).to(dtype).float()
    keys = cache.keys.view(torch.uint8)[:, 0].transpose(1, 2).flatten(0, 1)[:tokens]
    stored = cache.values.view(torch.uint8)[:, 0].flatten(0, 1)[:tokens]
    assert torch.equal(keys.contiguous().view(dtype).float(), wanted[:, :64])
    assert torch.equal(stored.contiguous().view(dtype).float(), wanted[:, 64:])


@pytest.mark.parametrize("dtype", FLOAT8_DTYPES, ids=str)
def test_scales_of_keys_and_values_multiply(kernels: Kernels, dtype: torch.dtype) -> None:
    """Numbers that the cache could not hold without them."""
    batch = ragged([1, 5, 40], [310, 70, 40], (4, 2, 64))
    plain = attend(kernels, batch, fill(kernels, batch, dtype))
    large = replace(batch, qkv=batch.qkv.clone())
    large.qkv[:, : 4 * 64] /= 2.0**12
    large.qkv[:, 4 * 64 : 6 * 64] *= 2.0**12
    large.qkv[:, 6 * 64 :] *= 2.0**20
    scales = {"key_scale": 2.0**12, "value_scale": 2.0**20}
    filled = fill(kernels, large, dtype, **scales)
    scaled = attend(kernels, large, filled)
    torch.testing.assert_close(scaled / 2.0**20, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_native_and_twin_attend_alike(native: Kernels, twins: Kernels, dtype: torch.dtype) -> None:
    batch = ragged([1, 5, 40], [310, 70, 40], (9, 3, 64))
    qkv, cache = fill(native, batch, dtype)
    ours = attend(native, batch, (qkv, cache), window=290)
    theirs = attend(twins, batch, (qkv, in_order(native, cache)), window=290)
    # Tiles round queries and weights to bfloat16, too.
    is_tiled = native.has_bfloat16_products and dtype == torch.bfloat16
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-2 if is_tiled else 3e-6)


@pytest.mark.parametrize("boundary", [0, 5, 46])
def test_results_in_the_form_of_the_next_linear(kernels: Kernels, boundary: int) -> None:
    batch = ragged([1, 5, 40], [310, 70, 40], (9, 3, 64))
    filled = fill(kernels, batch, torch.float16)
    op = attention_op(batch, filled, [(0, 309, 310), (1, 65, 70), (2, 0, 40)])
    kernels.run(op)
    split = Split(torch.float32, torch.tensor([boundary], dtype=torch.int32))
    whole, parts, wanted = (
        kernels.activation(46, 9 * 64, torch.int8, s) for s in (None, split, None)
    )
    for out in (whole, parts):
        kernels.run(replace(op, out=out))
    kernels.run(ops.Quantize(op.out, wanted))
    assert torch.equal(whole.storage, wanted.storage)
    assert torch.equal(parts.rest[: 46 - boundary], op.out[boundary:])


def test_what_lies_behind_the_context_does_not_matter(native: Kernels) -> None:
    batch = ragged([1, 9], [41, 300], (6, 2, 64))
    for dtype in (torch.float16, torch.bfloat16, *FLOAT8_DTYPES):
        qkv, cache = fill(native, batch, dtype)
        wanted = attend(native, batch, (qkv, cache))
        longer = ragged([1, 1], [64, 320], (6, 2, 64))
        longer.block_table[:] = batch.block_table
        slots = torch.cat([longer.slots(0)[41:], longer.slots(1)[300:]])
        poison = torch.full((len(slots), 10 * 64), torch.nan)
        positions = torch.zeros(len(slots), dtype=torch.int32)
        native.run(ops.RopeWrite(poison, positions, slots, cache, num_heads=6))
        assert torch.equal(attend(native, batch, (qkv, cache)), wanted)


def test_partial_rotary_and_head_norms(kernels: Kernels) -> None:
    num_heads, num_kv_heads, size, width = 3, 1, 32, 16
    qkv = torch.randn(5, 5 * size)
    norms = torch.rand(2, size) + 0.5
    table = rotary(width)
    cache = kernels.empty_cache(1, num_kv_heads, size, torch.float32)
    result = qkv.clone()
    kernels.run(
        ops.RopeWrite(
            result,
            torch.tensor([0, 3, 9, 9, 500]).int(),
            torch.arange(5),
            cache,
            num_heads=num_heads,
            rotary=table,
            norms=HeadNorms(norms[0], norms[1], 1e-5),
        )
    )
    heads = qkv.double().unflatten(1, (-1, size))
    wanted = heads.clone()
    for head in range(4):
        x = heads[:, head]
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norms[int(head == 3)]
        angles = torch.tensor([0, 3, 9, 9, 500])
        cos, sin = table.cos[angles].double(), table.sin[angles].double()
        a, b = x[:, :8], x[:, 8:16]
        wanted[:, head] = torch.cat([a * cos - b * sin, b * cos + a * sin, x[:, 16:]], 1)
    assert torch.allclose(result.double(), wanted.flatten(1), atol=1e-6)
    assert torch.allclose(cache.keys[0, 0, :, :5].T.double(), wanted[:, 3], atol=1e-6)
    assert torch.equal(cache.values[0, 0, :5], qkv[:, -size:])


@pytest.mark.parametrize("is_interleaved", [False, True])
def test_clamp_layer_norms_of_heads_and_temperature(kernels: Kernels, is_interleaved: bool) -> None:
    """In this order, on heads of no whole number of vectors, of which the end rotates."""
    size, width, positions = 20, 12, torch.tensor([0, 3, 9, 9, 500])
    qkv, norms = 2 * torch.randn(5, 4 * size), torch.rand(3, size) + 0.5
    table, result = rotary(width), qkv.clone()
    cache = kernels.empty_cache(1, 1, size, torch.float32)
    kernels.run(
        ops.RopeWrite(
            result,
            positions.int(),
            torch.arange(5),
            cache,
            num_heads=2,
            rotary=Rotary(table.cos, table.sin, size - width, is_interleaved),
            norms=HeadNorms(norms[:2].contiguous(), norms[2:], 1e-5, "layer"),
            clip=1.5,
            temperature=(4.0, 0.3),
        )
    )
    wanted = qkv.double().clamp(-1.5, 1.5).unflatten(1, (-1, size))
    shape = (size,)
    for head in range(3):
        x = torch.nn.functional.layer_norm(wanted[:, head], shape, norms[head].double(), eps=1e-5)
        kept, turned = x.split([size - width, width], 1)
        if is_interleaved:
            turned = turned.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1)
        a, b = turned.chunk(2, 1)
        cos, sin = table.cos[positions].double(), table.sin[positions].double()
        wanted[:, head] = torch.cat((kept, a * cos - b * sin, b * cos + a * sin), 1)
    wanted[:, :2] *= (((positions + 1) / 4).floor().double() + 1).log().view(-1, 1, 1) * 0.3 + 1
    assert torch.allclose(result.double(), wanted.flatten(1), atol=2e-6)
    assert torch.allclose(cache.keys[0, 0, :size, :5].T.double(), wanted[:, 2], atol=2e-6)
    assert torch.equal(cache.values[0, 0, :5, :size], result[:, -size:])


OPTIONS: list[dict[str, Any]] = [
    {},
    {"window": 70},
    {"chunk_size": 100, "sinks": torch.linspace(-3, 3, 40)},
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads", [(9, 3, 64), (2, 2, 80), (26, 1, 32), (20, 1, 96)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_results_do_not_depend_on_chunks_batch_blocks_or_threads(
    native: Kernels, dtype: torch.dtype, heads: tuple[int, int, int], options: dict[str, Any]
) -> None:
    if "sinks" in options:
        options = options | {"sinks": options["sinks"][: heads[0]]}
    value_size = 64 if heads[2] == 96 else None
    batch = ragged([100, 1, 20], [100, 530, 290], heads, value_size)
    filled = fill(native, batch, dtype)
    whole = attend(native, batch, filled, **options)
    for threads, chunk in [(2, 1), (1, 7), (3, 32), (3, 100)]:
        native.set_num_threads(threads)
        assert torch.equal(attend(native, batch, filled, chunk, **options), whole)
    table = torch.randperm(batch.block_table.numel()).view(batch.block_table.shape).int()
    moved = replace(batch, block_table=table)
    assert torch.equal(attend(native, moved, fill(native, moved, dtype), **options), whole)


@pytest.mark.parametrize("heads", [(9, 3, 64), (10, 5, 32), (16, 8, 128)], ids=str)
def test_results_do_not_depend_on_key_heads_attended_together(
    native: Kernels, heads: tuple[int, int, int]
) -> None:
    """As those of many short steps are: alone, a sequence has a unit for each key head."""
    batch = ragged([1, 3, 40, 2] * 5, [40, 300, 64, 530, *range(40, 56)], heads)
    filled = fill(native, batch, torch.bfloat16)
    whole = attend(native, batch, filled, window=280)
    assert torch.equal(attend(native, batch, filled, 1, window=280), whole)
