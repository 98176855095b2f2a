"""What the twins' activations and weights stand for, and the rounding between them.

Quantized activations are held as the float values that the integers stand for.
"""

import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels.codebooks import CODEBOOKS, ROUNDED
from headrace.kernels.tensors import (
    FLOAT8_DTYPES,
    GROUP_SIZE,
    Activation,
    PackedWeight,
    QuantizedActivation,
    SplitActivation,
    UniformActivation,
)


def round_to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole values in -127..127 and scales [..., 1], of the last dimension's vectors."""
    largest = x.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    return (x * inverse).round(), largest / 127.0


def fake_quantize(x: Tensor) -> Tensor:
    """What int8 activations with a scale per 32 features stand for. x [..., features]."""
    quants, scales = round_to_int8(x.unflatten(-1, (-1, GROUP_SIZE)))
    return (quants * scales).flatten(-2)


def values_of(
    weight: PackedWeight, index: Tensor | None = None, codebooks: dict[str, Tensor] = CODEBOOKS
) -> Tensor:
    """The weight's rows (those of `index`) as float32."""
    parts = [part if index is None else part[index] for part in weight.storage]
    if not weight.is_grouped:
        return parts[0].float()
    quants, scales, minima = parts
    values = codebooks[weight.kind][quants.int()] if weight.kind in CODEBOOKS else quants.float()
    grouped = values.unflatten(1, (scales.shape[1], -1))
    return (grouped * scales.float()[..., None] + minima.float()[..., None]).flatten(1)


def product(x: Activation, weight: PackedWeight, count: int) -> Tensor:
    """The first `count` rows of x times the weight."""
    if isinstance(x, SplitActivation):
        split = first_rows(x, count)
        return torch.cat([product(x.first, weight, split), product(x.rest, weight, count - split)])
    values = x.storage if isinstance(x, QuantizedActivation) else x
    return functional.linear(values[:count], rounded_values(weight, x))


def rounded_values(weight: PackedWeight, x: UniformActivation) -> Tensor:
    """The weight's rows as float32, as products with such an activation read them."""
    if not isinstance(x, QuantizedActivation):
        return values_of(weight)
    if x.dtype == torch.bfloat16:
        return values_of(weight).bfloat16().float()
    return values_of(weight, codebooks=ROUNDED)


def first_rows(x: SplitActivation, count: int) -> int:
    """How many of `count` rows are in the first part."""
    return min(int(x.boundary), count)


def rounded(x: Tensor, like: UniformActivation) -> Tensor:
    """x as an activation of that kind holds it."""
    if not isinstance(like, QuantizedActivation):
        return x
    return fake_quantize(x) if like.dtype == torch.int8 else x.bfloat16().float()


def put(x: Tensor, out: Activation) -> None:
    """Store rows of x as the activation `out`, quantized if that is."""
    if isinstance(out, SplitActivation):
        split = first_rows(out, len(x))
        put(x[:split], out.first)
        put(x[split:], out.rest)
    elif isinstance(out, QuantizedActivation):
        out.storage[: x.shape[0]] = rounded(x, out)
    else:
        out[: x.shape[0]] = x


def held_as_bytes(x: Tensor) -> Tensor:
    """Floats of 8 bits as bytes, others as they are: torch cannot copy the former by index."""
    return x.view(torch.uint8) if x.dtype in FLOAT8_DTYPES else x


def check_range(index: Tensor, size: int, message: str) -> None:
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise ValueError(message)
