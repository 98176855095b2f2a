"""Random weights and batches for the kernel tests."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, dequantize
from torch import Tensor

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.codebooks import CODEBOOKS
from headrace.kernels.tensors import (
    BLOCK_FORMATS,
    BLOCK_SIZE,
    CODE_BITS,
    FLOAT_DTYPES,
    ZERO_POINTS,
    Activation,
    AttentionOptions,
    LayerCache,
    PackedWeight,
    Rotary,
    Scaling,
    WeightKind,
)

SUPER_BLOCKS: dict[WeightKind, str] = {
    "int2": "Q2_K",
    "int3": "Q3_K",
    "int4": "Q4_K",
    "int5": "Q5_K",
    "int6": "Q6_K",
}
HALVES = {  # where a block's float16 numbers are
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
}


@dataclass(frozen=True)
class Dense:
    """A weight in checkpoint form, and the float64 values it stands for."""

    kind: WeightKind
    group_size: int
    scaling: Scaling
    parts: tuple[Tensor, ...]
    values: Tensor

    def pack(self, kernels: Kernels) -> PackedWeight:
        out, in_ = self.values.shape
        if self.kind in FLOAT_DTYPES:
            weight = kernels.empty_weight(self.kind, out, in_)
            kernels.pack_floats(weight, 0, self.parts[0])
            return weight
        weight = kernels.empty_weight(
            self.kind, out, in_, group_size=self.group_size, scaling=self.scaling
        )
        if "super_block" in self.scaling:
            kernels.pack_blocks(weight, 0, SUPER_BLOCKS[self.kind], self.parts[0])
        else:
            kernels.pack_groups(weight, 0, *self.parts)
        return weight


def dense(kind: WeightKind, out: int, in_: int) -> Dense:
    values = (torch.randn(out, in_) / in_**0.5).to(FLOAT_DTYPES[kind])
    return Dense(kind, 0, "symmetric", (values,), values.double())


def rounded(weight: Dense) -> Dense:
    """What products with int8 activations make of a codebook."""
    codes, scales = weight.parts
    unit = {"nf4": 127, "fp4": 120, "mxfp4": 20}[weight.kind]
    table = (CODEBOOKS[weight.kind].double() * unit).round() / unit
    values = table[codes.int()].unflatten(1, (-1, weight.group_size)) * scales[..., None]
    return replace(weight, values=values.flatten(1))


def random_blocks(name: str, rows: int, features: int, largest: float = 0.02) -> np.ndarray:
    """Rows of GGUF blocks [rows, bytes]: random quants, float16 numbers up to `largest`."""
    form = BLOCK_FORMATS[name]
    random = np.random.default_rng(0)
    shape = (rows, features // form.block_weights, form.block_bytes)
    blocks = random.integers(0, 256, shape, dtype=np.uint8)
    for at in HALVES.get(name, (0,)):
        halves = random.uniform(largest / 20, largest, (*shape[:2], 1)).astype(np.float16)
        blocks[..., at : at + 2] = halves.view(np.uint8)
    return blocks.reshape(rows, -1)


def super_blocks(kind: WeightKind, out: int, in_: int, group_size: int) -> Dense:
    name = SUPER_BLOCKS[kind]
    blocks = random_blocks(name, out, -(-in_ // 256) * 256, largest=0.0005)
    values = dequantize(blocks, GGMLQuantizationType[name])[:, :in_]
    parts = (torch.from_numpy(blocks),)
    scaling = BLOCK_FORMATS[name].scaling
    return Dense(kind, group_size, scaling, parts, torch.from_numpy(values).double())


def grouped(
    kind: WeightKind, out: int, in_: int, group_size: int, scaling: Scaling = "symmetric"
) -> Dense:
    """Scales and minima that float16 holds exactly, so that `values` is exact."""
    if "super_block" in scaling:
        return super_blocks(kind, out, in_, group_size)
    levels = 2 ** CODE_BITS[kind]
    middle = levels // 2
    quants = torch.randint(0, levels, (out, in_), dtype=torch.uint8)
    scales = (torch.rand(out, in_ // group_size) / levels + 0.01).half().float()
    if scaling == "power_of_two":
        scales = torch.exp2(torch.randint(-9, -3, scales.shape).float())
    if kind in CODEBOOKS:
        quants[quants == 127] = quants[quants == 255] = 1  # E4M3's NaN
        values = CODEBOOKS[kind][quants.int()].double().unflatten(1, (-1, group_size))
        values = (values * scales[..., None]).flatten(1)
        return Dense(kind, group_size, scaling, (quants, scales), values)
    zeros = torch.full_like(scales, middle)
    if scaling == "minimum":
        zeros = torch.randint(middle - 2, middle + 2, scales.shape).float()
        scales = (scales * 512).round() / 512
    elif "zero_point" in scaling:
        held = ZERO_POINTS[kind]
        zeros = torch.randint(0, min(2**held.bits, levels * held.steps), scales.shape)
        zeros = zeros / held.steps
    shifted = quants.double().unflatten(1, (-1, group_size)) - zeros[..., None]
    values = (shifted * scales.double()[..., None]).flatten(1)
    if scaling == "symmetric":
        return Dense(kind, group_size, scaling, (quants, scales), values)
    offsets = -zeros * scales if scaling == "minimum" else zeros
    return Dense(kind, group_size, scaling, (quants, scales, offsets), values)


def quantized(kernels: Kernels, x: Tensor, dtype: torch.dtype = torch.int8) -> Activation:
    out = kernels.activation(*x.shape, dtype)
    kernels.run(ops.Quantize(x, out))  # type: ignore[arg-type]
    return out


def activations(rows: int, features: int) -> Tensor:
    """Random values none of which lies on the edge between two int8 values."""
    quants = torch.randint(-126, 127, (rows, features // 32, 32)) + torch.rand(32) * 0.8 - 0.4
    quants[..., 5] = 127
    return (quants * (torch.rand(rows, features // 32, 1) + 0.01)).flatten(1)


def fake_quantized(x: Tensor) -> Tensor:
    """Independent statement of the activation format, in float64."""
    groups = x.double().unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (torch.where(scale > 0, groups / scale, 0.0).round() * scale).flatten(-2)


def exact_values(kernels: Kernels, x: Activation) -> Tensor:
    """What an activation stands for, read back through an identity weight."""
    if isinstance(x, Tensor):
        return x
    identity = kernels.empty_weight("int8", x.features, x.features)
    quants = (torch.eye(x.features) + 128).to(torch.uint8)
    kernels.pack_groups(identity, 0, quants, torch.ones(x.features, x.features // 32))
    out = torch.zeros(x.rows, x.features)
    kernels.run(ops.Linear(x, identity, out))
    return out


@dataclass
class Ragged:
    """Sequences with earlier context in a paged cache of shuffled blocks.

    Values smaller than keys are the first elements of these, and qkv has none.
    """

    query_lens: list[int]
    context_lens: list[int]
    block_table: Tensor
    qkv: Tensor
    """Of all positions of all sequences, one sequence after another."""
    heads: tuple[int, int, int]
    value_size: int | None = None

    @property
    def num_blocks(self) -> int:
        return int(self.block_table.max()) + 1

    def slots(self, sequence: int) -> Tensor:
        positions = torch.arange(self.context_lens[sequence])
        blocks = self.block_table[sequence].long()[positions // BLOCK_SIZE]
        return blocks * BLOCK_SIZE + positions % BLOCK_SIZE


def ragged(
    query_lens: list[int],
    context_lens: list[int],
    heads: tuple[int, int, int],
    value_size: int | None = None,
) -> Ragged:
    num_heads, num_kv_heads, head_size = heads
    width = -(-max(context_lens) // BLOCK_SIZE)
    table = torch.randperm(len(context_lens) * width).view(len(context_lens), width).int()
    num_vectors = num_heads + num_kv_heads * (2 if value_size is None else 1)
    qkv = torch.randn(sum(context_lens), num_vectors * head_size)
    return Ragged(query_lens, context_lens, table, qkv, heads, value_size)


def rotary(head_size: int, positions: int = 1024) -> Rotary:
    angles = torch.outer(torch.arange(positions), 10000 ** -torch.arange(0, 1, 2 / head_size))
    return Rotary(angles.cos(), angles.sin())


def fill(
    kernels: Kernels, batch: Ragged, dtype: torch.dtype, **scales: float
) -> tuple[Tensor, LayerCache]:
    """Write all contexts; returns qkv with rotated queries, and the cache."""
    num_heads, num_kv_heads, head_size = batch.heads
    cache = kernels.empty_cache(batch.num_blocks, num_kv_heads, head_size, dtype, batch.value_size)
    cache = replace(cache, **scales)
    slots = torch.cat([batch.slots(s) for s in range(len(batch.context_lens))])
    positions = torch.cat([torch.arange(n) for n in batch.context_lens]).int()
    qkv, key = batch.qkv.clone(), None
    if batch.value_size is not None:
        key = qkv[:, num_heads * head_size :].contiguous()
        qkv = qkv[:, : num_heads * head_size].contiguous()
    table = rotary(head_size)
    kernels.run(
        ops.RopeWrite(qkv, positions, slots, cache, num_heads=num_heads, key=key, rotary=table)
    )
    return qkv, cache


def in_order(kernels: Kernels, cache: LayerCache) -> LayerCache:
    """The same cache, keys [..., features, tokens] and values [..., tokens, features]."""
    widths = cache.keys.shape[2], cache.values.shape[3]
    is_tiled = cache.keys.dtype == torch.bfloat16 and not any(width % 32 for width in widths)
    if not (kernels.has_bfloat16_products and is_tiled):
        return cache
    keys = cache.keys.flatten(2).unflatten(2, (-1, 2, 16, 16, 2)).permute(0, 1, 2, 4, 6, 3, 5)
    values = cache.values.flatten(2).unflatten(2, (-1, 16, 16, 2)).permute(0, 1, 3, 5, 2, 4)
    shapes = cache.keys.shape, cache.values.shape
    return replace(cache, keys=keys.reshape(shapes[0]), values=values.reshape(shapes[1]))


def attend(
    kernels: Kernels,
    batch: Ragged,
    filled: tuple[Tensor, LayerCache],
    chunk: int | None = None,
    *,
    chunk_size: int | None = None,
    **options: Any,
) -> Tensor:
    """Attention of each sequence's last query_lens tokens: [all of them, heads * D].

    chunk None: all sequences in one call; else one sequence at a time, so many queries per call.
    options: those of `AttentionOptions`, whose `chunk` is called chunk_size.
    """
    options = options | {"chunk": chunk_size}
    lens = list(enumerate(zip(batch.query_lens, batch.context_lens, strict=True)))
    if chunk is None:
        parts = [(s, context - queries, context) for s, (queries, context) in lens]
        return attend_parts(kernels, batch, filled, parts, **options)
    outs = [
        attend_parts(kernels, batch, filled, [(s, first, min(first + chunk, context))], **options)
        for s, (queries, context) in lens
        for first in range(context - queries, context, chunk)
    ]
    return torch.cat(outs)


def attend_parts(
    kernels: Kernels,
    batch: Ragged,
    filled: tuple[Tensor, LayerCache],
    parts: list[tuple[int, int, int]],
    **options: Any,
) -> Tensor:
    """One call; parts are (sequence, first query position, last)."""
    op = attention_op(batch, filled, parts, **options)
    kernels.run(op)
    assert isinstance(op.out, Tensor)
    return op.out


def attention_op(
    batch: Ragged,
    filled: tuple[Tensor, LayerCache],
    parts: list[tuple[int, int, int]],
    **options: Any,
) -> ops.Attention:
    num_heads, _, head_size = batch.heads
    qkv, cache = filled
    starts = [0, *torch.tensor(batch.context_lens).cumsum(0).tolist()]
    rows = torch.cat([qkv[starts[s] + first : starts[s] + last] for s, first, last in parts])
    counts = torch.tensor([0, *(last - first for _, first, last in parts)])
    return ops.Attention(
        rows,
        cache,
        counts.cumsum(0).int(),
        torch.tensor([last for *_, last in parts]).int(),
        batch.block_table[[s for s, *_ in parts]],
        torch.zeros(rows.shape[0], num_heads * cache.value_size),
        num_heads=num_heads,
        options=AttentionOptions(scale=head_size**-0.5, **options),
    )
