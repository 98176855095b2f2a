"""Float matrices written in the true layouts of quantized checkpoints, by the published formulas.

A writer turns a matrix [out, in] into the tensors of a layer, by suffix, and the matrix that these
stand for. Nothing here uses the code under test.
"""

import json
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
    precision: float = 1e-5
    """Of logits in plain torch: float32's, unless scales are kept in float16."""
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


def compressed_tensors(form: str, **weights: Any) -> Format:
    """`weights`: the arguments of the one config group, in the format's own words."""
    arguments: dict[str, Any] = {
        "type": "int",
        "symmetric": True,
        "dynamic": False,
        "actorder": None,
    } | weights
    config = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments}},
        "ignore": ["lm_head", "re:.*v_proj$"],
    }
    bits = arguments["num_bits"]
    size = arguments.get("group_size")

    def write_integers(weight: Tensor) -> Written:
        index = torch.arange(weight.shape[1]) // (size or weight.shape[1])
        if arguments["actorder"] == "group":
            index = index.flip(0)
        is_symmetric = arguments["symmetric"]
        codes, scales, zeros, exact = integers(weight, bits, index, is_symmetric, torch.float32)
        tensors = {"weight_scale": scales}
        if form == "pack-quantized":
            tensors["weight_packed"] = torch.from_numpy(bit_stream(codes.numpy(), bits))
            tensors["weight_shape"] = torch.tensor(weight.shape)
            packed_zeros = torch.from_numpy(bit_stream(zeros.T.numpy(), bits).T.copy())
        else:
            middle = 2 ** (bits - 1)
            tensors["weight"] = (codes.short() - middle).to(torch.int8)
            packed_zeros = (zeros - middle).to(torch.int8)
        if not is_symmetric:
            tensors["weight_zero_point"] = packed_zeros
        if arguments["actorder"] == "group":
            tensors["weight_g_idx"] = index.int()
        return tensors, exact

    def write_floats(weight: Tensor) -> Written:
        rows = 1 if arguments["strategy"] == "tensor" else len(weight)
        scales = weight.abs().view(rows, -1).amax(1, keepdim=True) / 448
        values = (weight / scales).to(torch.float8_e4m3fn)
        stored = scales[0] if rows == 1 else scales
        return {"weight": values, "weight_scale": stored}, values.float() * scales

    write = write_floats if arguments["type"] == "float" else write_integers
    per_group = 32 + (0 if arguments["symmetric"] else bits)
    return Format(config, write, bits + (per_group / size if size else 0), skipped=("v_proj",))


def fp8(block: tuple[int, int] | None) -> Format:
    def write(weight: Tensor) -> Written:
        rows, columns = block or weight.shape
        index = (
            torch.arange(len(weight))[:, None] // rows,
            torch.arange(weight.shape[1]) // columns,
        )
        scales = torch.zeros(int(index[0].max()) + 1, int(index[1].max()) + 1)
        for i, j in np.ndindex(*scales.shape):
            part = weight[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            scales[i, j] = part.abs().max() / 448
        values = (weight / scales[index]).to(torch.float8_e4m3fn)
        name = "weight_scale_inv" if block else "weight_scale"
        stored = scales if block else scales[0, 0]
        return {"weight": values, name: stored}, values.float() * scales[index]

    config: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    return Format(config | ({"weight_block_size": list(block)} if block else {}), write, 8)


def dynamic_map() -> Tensor:
    """bitsandbytes' signed 8-bit map: decades, each divided evenly."""
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        values += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(values))


def bitsandbytes_4bit(kind: str, *, nested: bool) -> Format:
    if kind == "nf4":
        # QLoRA's table, given in its appendix E to 16 digits; here from the normal distribution.
        normal = torch.distributions.Normal(0.0, 1.0).icdf
        positive = normal(torch.linspace(0.9677083, 0.5, 9, dtype=torch.float64)[:-1])
        negative = -normal(torch.linspace(0.9677083, 0.5, 8, dtype=torch.float64)[:-1])
        table = torch.cat([positive, torch.zeros(1, dtype=torch.float64), negative]).sort().values
        table = (table / table.abs().max()).float()
    else:
        halves = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12
        table = torch.cat([halves, -halves])

    def write(weight: Tensor) -> Written:
        blocks = weight.reshape(-1, 64)
        largest = blocks.abs().amax(1)
        codes = (blocks / largest[:, None])[..., None].sub(table).abs().argmin(-1).flatten()
        tensors = {
            "weight": (codes[::2] << 4 | codes[1::2]).to(torch.uint8)[:, None],
            "weight.quant_map": table,
        }
        state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "float32"}
        state["shape"] = list(weight.shape)
        if nested:
            scales = dynamic_map()
            offset = float(largest.mean())
            padded = torch.nn.functional.pad(largest - offset, (0, -len(largest) % 256))
            nested_largest = padded.view(-1, 256).abs().amax(1)
            spread = nested_largest.repeat_interleave(256)[: len(largest)]
            absmax = ((largest - offset) / spread)[:, None].sub(scales).abs().argmin(1)
            largest = scales[absmax] * spread + offset
            tensors |= {
                "weight.absmax": absmax.to(torch.uint8),
                "weight.nested_absmax": nested_largest,
                "weight.nested_quant_map": scales,
            }
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        else:
            tensors["weight.absmax"] = largest
        text = json.dumps(state).encode()
        tensors[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(text)).byte()
        return tensors, (table[codes].view(-1, 64) * largest[:, None]).view(weight.shape)

    config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": nested,
        "llm_int8_skip_modules": ["o_proj"],
    }
    bits, precision = (4.127, 3e-3) if nested else (4.5, 1e-5)
    return Format(config, write, bits, precision, skipped=("o_proj",))


def bitsandbytes_8bit() -> Format:
    def write(weight: Tensor) -> Written:
        largest = weight.abs().amax(1)
        values = (weight / largest[:, None] * 127).round().to(torch.int8)
        tensors = {"weight": values, "SCB": largest, "weight_format": torch.tensor(0).byte()}
        return tensors, values.float() * largest[:, None] / 127

    config = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}
    return Format(config, write, 8)


def ct_group(bits: int, **more: Any) -> Format:
    return compressed_tensors(
        "pack-quantized", num_bits=bits, strategy="group", group_size=32, **more
    )


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
    "ct-w4a16": ct_group(4),
    "ct-w4a16-asym": ct_group(4, symmetric=False),
    "ct-w4a16-act-order": ct_group(4, actorder="group"),
    "ct-w8a16-channel": compressed_tensors("pack-quantized", num_bits=8, strategy="channel"),
    "ct-w8a8": compressed_tensors("int-quantized", num_bits=8, strategy="channel"),
    "ct-w8a8-asym": compressed_tensors(
        "int-quantized", num_bits=8, strategy="channel", symmetric=False
    ),
    "ct-fp8-channel": compressed_tensors(
        "float-quantized", num_bits=8, type="float", strategy="channel"
    ),
    "ct-fp8-tensor": compressed_tensors(
        "float-quantized", num_bits=8, type="float", strategy="tensor"
    ),
    "fp8-tensor": fp8(None),
    "fp8-blocks": fp8((32, 32)),
    "fp8-odd-blocks": fp8((40, 48)),
    "bitsandbytes-nf4": bitsandbytes_4bit("nf4", nested=False),
    "bitsandbytes-nf4-nested": bitsandbytes_4bit("nf4", nested=True),
    "bitsandbytes-fp4": bitsandbytes_4bit("fp4", nested=False),
    "bitsandbytes-8bit": bitsandbytes_8bit(),
}
