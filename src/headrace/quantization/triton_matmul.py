"""Products with packed weights in Triton: codes are unpacked in the kernel, not in memory.

Not yet run on hardware: tested in Triton's interpreter. Imported only where Triton is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional
from triton.errors import TritonError

TILE_ROWS, TILE_OUTPUTS, TILE_DEPTH = 16, 64, 64


@triton.jit
def _matmul(  # type: ignore[no-untyped-def]
    x_pointer, codes_pointer, scales_pointer, zeros_pointer, codebook_pointer, out_pointer,
    num_rows, out_features, in_features, row_bytes, zero_bytes, group_size, num_groups,
    bits: tl.constexpr, zero_bits: tl.constexpr, zero_steps: tl.constexpr,
    has_codebook: tl.constexpr,
    tile_rows: tl.constexpr, tile_outputs: tl.constexpr, tile_depth: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of out [num_rows, out_features]; each code lies within one byte."""
    rows = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    outputs = tl.program_id(1) * tile_outputs + tl.arange(0, tile_outputs)
    is_row, is_output = rows[:, None] < num_rows, outputs[None, :] < out_features
    sums = tl.zeros((tile_rows, tile_outputs), tl.float32)
    for first in range(0, in_features, tile_depth):
        depth = first + tl.arange(0, tile_depth)
        is_input = depth[None, :] < in_features
        is_weight = (depth[:, None] < in_features) & is_output
        x = tl.load(
            x_pointer + rows[:, None] * in_features + depth[None, :], is_row & is_input, other=0.0
        )
        at = outputs[None, :] * row_bytes + depth[:, None] * bits // 8
        packed = tl.load(codes_pointer + at, is_weight, other=0).to(tl.int32)
        codes = (packed >> (depth[:, None] * bits % 8)) & ((1 << bits) - 1)
        group = depth[:, None] // group_size
        at = outputs[None, :] * num_groups + group
        scales = tl.load(scales_pointer + at, is_weight, other=0.0).to(tl.float32)
        if has_codebook:
            values = tl.load(codebook_pointer + codes)
        elif zero_bits > 0:
            at = outputs[None, :] * zero_bytes + group * zero_bits // 8
            packed = tl.load(zeros_pointer + at, is_weight, other=0).to(tl.int32)
            zeros = (packed >> (group * zero_bits % 8)) & ((1 << zero_bits) - 1)
            values = codes.to(tl.float32) - zeros.to(tl.float32) / zero_steps
        else:
            values = codes.to(tl.float32) - (1 << (bits - 1))
        sums += tl.dot(x, (values * scales).to(x.dtype), input_precision="ieee")
    at = rows[:, None] * out_features + outputs[None, :]
    tl.store(out_pointer + at, sums.to(out_pointer.dtype.element_ty), is_row & is_output)


def packed_matmul(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    *,
    bits: int,
    zero_points: tuple[Tensor, int, int] | None = None,
    codebook: Tensor | None = None,
) -> Tensor:
    """x [T, in] times a weight [out, in], to [T, out] in x's dtype.

    codes [out, in * bits / 8] uint8, lowest bits first, of 1, 2, 4 or 8 bits; scales [out,
    groups], contiguous; zero_points like the codes, with their bits and their steps between two
    quants; codebook [2 ** bits] float32.
    """
    x = x.contiguous()
    (num_rows, in_features), (out_features, num_groups) = x.shape, scales.shape
    out = torch.empty(num_rows, out_features, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(num_rows, TILE_ROWS), triton.cdiv(out_features, TILE_OUTPUTS))
    zeros, zero_bits, zero_steps = zero_points or (codes, 0, 1)
    _matmul[grid](
        x, codes, scales, zeros, scales if codebook is None else codebook, out,
        num_rows, out_features, in_features, codes.shape[1], zeros.shape[1],
        in_features // num_groups, num_groups, bits, zero_bits, zero_steps, codebook is not None,
        TILE_ROWS, TILE_OUTPUTS, TILE_DEPTH,
    )  # fmt: skip
    return out


def trial(device: torch.device) -> str | None:
    """Multiply once and compare with torch: what went wrong, None if nothing did."""
    generator = torch.Generator(device).manual_seed(0)
    codes = torch.randint(0, 256, (70, 96), generator=generator, device=device).to(torch.uint8)
    x, scales = (
        torch.rand(rows, columns, generator=generator, device=device)
        for rows, columns in ((5, 96), (70, 3))
    )
    wanted = functional.linear(x, (codes.float() - 128) * scales.repeat_interleave(32, 1))
    try:
        got = packed_matmul(x, codes, scales, bits=8)
    except (RuntimeError, TritonError) as error:
        return f"it failed: {error}"
    difference = float((got - wanted).norm() / wanted.norm())
    return None if difference < 1e-3 else f"it differs from torch by {difference}"
