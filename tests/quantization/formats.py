"""Float matrices written in the true layouts of quantized checkpoints, by the published formulas.

A writer turns a matrix [out, in] into the tensors of a layer, by suffix, and the matrix that these
stand for. Nothing here uses the code under test.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Written = tuple[dict[str, Tensor], Tensor]
Writer = Callable[[Tensor], Written]


@dataclass(frozen=True)
class Format:
    """One way to store linear layers: config.json's quantization_config, and a writer."""

    config: dict[str, Any]
    write: Writer
    bits_per_weight: float
    """That the format's definition comes to, for in_features >= 1024."""
    skipped: tuple[str, ...] = ()
    """Layers left alone, by the last part of their names."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """JSON files to write beside config.json, which is then silent."""


def bit_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """[n, k] codes to [n, k * bits / 32] int32, each row a stream of bits, lowest first."""
    spread = (codes[..., None].astype(np.int64) >> np.arange(bits)) & 1
    stream = np.packbits(spread.reshape(len(codes), -1).astype(np.uint8), axis=1, bitorder="little")
    return np.ascontiguousarray(stream).view("<i4")


def integers(
    weight: Tensor, bits: int, index: Tensor, symmetric: bool, dtype: torch.dtype = torch.float16
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes [out, in], scales and zero points [out, groups], and what they stand for."""
    num_groups, top = int(index.max()) + 1, 2**bits - 1
    scales = torch.empty(len(weight), num_groups)
    zeros = torch.full((len(weight), num_groups), (top + 1) // 2)
    for group in range(num_groups):
        members = weight[:, index == group]
        low, high = members.amin(1).clamp(max=0), members.amax(1).clamp(min=0)
        if symmetric:
            scales[:, group] = members.abs().amax(1) / (top // 2 + 0.5)
        else:
            scales[:, group] = (high - low) / top
            zeros[:, group] = (-low / scales[:, group]).round().clamp(0, top).long()
    scales = scales.to(dtype)
    wide, offset = scales.float()[:, index], zeros[:, index]
    codes = ((weight / wide).round() + offset).clamp(0, top)
    return codes.to(torch.uint8), scales, zeros, (codes - offset) * wide


def gptq(
    bits: int, group_size: int, *, symmetric: bool, act_order: bool = False, version: int = 1
) -> Format:
    def write(weight: Tensor) -> Written:
        columns = weight.shape[1]
        size = columns if group_size == -1 else group_size
        index = torch.arange(columns) // size
        if act_order:
            index = index[torch.randperm(columns, generator=torch.Generator().manual_seed(columns))]
        codes, scales, zeros, exact = integers(weight, bits, index, symmetric)
        stored = (zeros - int(version == 1)) % 2**bits
        tensors = {
            "qweight": torch.from_numpy(bit_stream(codes.numpy(), bits).T.copy()),
            "qzeros": torch.from_numpy(bit_stream(stored.T.numpy(), bits)),
            "scales": scales.T.contiguous(),
            "g_idx": index.int(),
        }
        return tensors, exact

    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "desc_act": act_order,
        "sym": symmetric,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
    }
    per_group = 16 + bits
    return Format(config, write, bits + (0 if group_size == -1 else per_group / group_size))


def awq(group_size: int) -> Format:
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(codes: Tensor) -> Tensor:
        """[n, out] to [n, out / 8]: field i of a word holds column order[i] of its eight."""
        words = torch.zeros(len(codes), codes.shape[1] // 8, dtype=torch.int64)
        for i, column in enumerate(order):
            words |= codes[:, column::8].long() << (4 * i)
        return torch.from_numpy(words.numpy().astype(np.uint32).view(np.int32))

    def write(weight: Tensor) -> Written:
        index = torch.arange(weight.shape[1]) // group_size
        codes, scales, zeros, exact = integers(weight, 4, index, symmetric=False)
        tensors = {
            "qweight": pack(codes.T),
            "qzeros": pack(zeros.T),
            "scales": scales.T.contiguous(),
        }
        return tensors, exact

    config = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    return Format(config, write, 4 + 20 / group_size)


FORMATS: dict[str, Format] = {
    "gptq-4bit-32-sym": gptq(4, 32, symmetric=True),
    "gptq-4bit-32-asym": gptq(4, 32, symmetric=False),
    "gptq-4bit-channel": gptq(4, -1, symmetric=True),
    "gptq-4bit-act-order": gptq(4, 32, symmetric=False, act_order=True),
    "gptq-4bit-16": gptq(4, 16, symmetric=True),
    "gptq-2bit-v2": gptq(2, 32, symmetric=False, version=2),
    "gptq-3bit": gptq(3, 32, symmetric=False),
    "gptq-8bit": gptq(8, 32, symmetric=True),
    "gptq-8bit-asym-act-order": gptq(8, 32, symmetric=False, act_order=True),
    "awq-32": awq(32),
}
