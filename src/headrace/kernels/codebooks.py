"""The numbers that codes stand for, of the weight kinds that are not integers."""

import torch
from torch import Tensor

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of the normal distribution (QLoRA, Dettmers et al. 2023, appendix E)."""
FP4 = tuple(sign * value / 192 for sign in (1, -1) for value in (0, 1, 128, 192, 64, 96, 32, 48))
"""One sign, two exponent and one mantissa bit, by bitsandbytes' table."""
E2M1 = tuple(sign * value for sign in (1, -1) for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6))
"""One sign, two exponent and one mantissa bit (OCP Microscaling Formats 1.0)."""

CODEBOOKS: dict[str, Tensor] = {
    "nf4": torch.tensor(NF4),
    "fp4": torch.tensor(FP4),
    "mxfp4": torch.tensor(E2M1),
    "float8": torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float(),
}
"""By weight kind, float32 [16 or 256]; csrc/codebook.h has the same."""
UNITS = {"nf4": 127, "fp4": 120, "mxfp4": 20}
"""Products with int8 activations round a codebook to whole multiples of 1 / unit, 0.4 % of its
largest number; of FP4's all but 1 / 192 are whole in such units, and all of E2M1's are."""
ROUNDED = {kind: (CODEBOOKS[kind] * unit).round() / unit for kind, unit in UNITS.items()}
