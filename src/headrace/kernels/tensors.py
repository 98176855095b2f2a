"""The values kernels work on, and the checks that keep bad shapes away from raw addresses.

Knows shapes and dtypes; knows neither how an implementation lays out its storage nor any op.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GROUP_SIZE = 32
"""Activations that share a scale; inputs of quantized weights come in multiples of it."""
HALF_MAX = 65504
"""The largest number of float16."""
BLOCK_SIZE = 32
"""Tokens of a KV-cache block."""

WeightKind = Literal[
    "int2", "int3", "int4", "int5", "int6", "int8",
    "nf4", "fp4", "mxfp4", "float8",
    "float16", "bfloat16", "float32", "coded_bfloat16",
]  # fmt: skip
ActivationKind = Literal["silu", "gelu", "gelu_tanh", "relu"]
GateKind = Literal["silu", "gelu", "gelu_tanh", "relu", "clamped_swiglu"]
Scaling = Literal[
    "symmetric", "power_of_two", "minimum", "zero_point", "nibble_zero_point",
    "super_block", "signed_super_block", "nibble_super_block",
]  # fmt: skip
NormKind = Literal["rms", "layer"]

WEIGHT_KINDS: tuple[WeightKind, ...] = get_args(WeightKind)
"""In the order of `Kind` in csrc/layout.h. The first ten are in groups that share a scale; nf4,
fp4, mxfp4 (E2M1) and float8 (E4M3) are codes of a codebook. coded_bfloat16 is what
`Kernels.compressed` makes of bfloat16."""
CODE_BITS: dict[WeightKind, int] = {
    "int2": 2, "int3": 3, "int4": 4, "int5": 5, "int6": 6, "int8": 8,
    "nf4": 4, "fp4": 4, "mxfp4": 4, "float8": 8,
}  # fmt: skip
"""Of the kinds in groups."""
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)
"""How groups are scaled, in the order of `Scaling` in csrc/layout.h: around a fixed middle; so, but
by a power of two of 8 bits (E8M0); from a float16 minimum; around a zero point of 8 bits; of 4
bits; or by 8-bit multiples of float16 numbers of the group: from a minimum, with two multiples for
32 inputs each; around the middle, with signed ones for 16 inputs each; or from a minimum, with such
of 4 bits."""
LAYOUTS: dict[WeightKind, tuple[Scaling, ...]] = {
    "int2": ("symmetric", "minimum", "nibble_zero_point", "nibble_super_block"),
    "int3": ("symmetric", "minimum", "nibble_zero_point", "signed_super_block"),
    "int4": ("symmetric", "minimum", "zero_point", "super_block"),
    "int5": ("symmetric", "minimum", "super_block"),
    "int6": ("signed_super_block",),
    "int8": ("symmetric", "minimum", "zero_point"),
    "nf4": ("symmetric",),
    "fp4": ("symmetric",),
    "mxfp4": ("power_of_two",),
    "float8": ("symmetric",),
}
"""How each kind in groups can be scaled (`with_layout` in csrc/scales.h)."""
ACTIVATION_KINDS: tuple[ActivationKind, ...] = ("silu", "gelu", "gelu_tanh", "relu")
GATE_KINDS: tuple[GateKind, ...] = (*ACTIVATION_KINDS, "clamped_swiglu")
"""In the order of `Gate` in csrc/math.h. The last is a function of gate and up both (GPT-OSS)."""
NORM_KINDS: tuple[NormKind, ...] = ("rms", "layer")
FLOAT_DTYPES: dict[WeightKind, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
DRAW = np.dtype(
    [
        ("temperature", np.float32),  # 0: greedy
        ("top_p", np.float32),
        ("typical_p", np.float32),
        ("min_p", np.float32),
        ("top_k", np.int64),
        ("seed", np.uint64),
        ("position", np.int64),
    ]
)
"""How to draw one row's token; 0, 1 or 1 or 0, and 0 switch a truncation off. The seed and the
position that the token will have key the random numbers. The layout is that of csrc/sample.h."""
Draws = npt.NDArray[np.void]
"""Records of DRAW, on the host."""
FLOAT8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
CACHE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, *FLOAT8_DTYPES)


@dataclass(frozen=True, slots=True)
class ZeroPoints:
    """Those that a kind can hold."""

    scaling: Scaling
    bits: int
    steps: int
    """Between two quants."""


ZERO_POINTS: dict[WeightKind, ZeroPoints] = {
    "int2": ZeroPoints("nibble_zero_point", bits=4, steps=1),
    "int3": ZeroPoints("nibble_zero_point", bits=4, steps=1),
    "int4": ZeroPoints("zero_point", bits=8, steps=16),
    "int8": ZeroPoints("zero_point", bits=8, steps=1),
}


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One of GGUF's block formats and the packed kind that holds it."""

    kind: WeightKind
    scaling: Scaling
    block_weights: int
    block_bytes: int


# The order is that of `Source` in csrc/pack.h.
BLOCK_FORMATS: dict[str, BlockFormat] = {
    "Q4_0": BlockFormat("int4", "symmetric", 32, 18),
    "Q4_1": BlockFormat("int4", "minimum", 32, 20),
    "Q5_0": BlockFormat("int5", "symmetric", 32, 22),
    "Q5_1": BlockFormat("int5", "minimum", 32, 24),
    "Q8_0": BlockFormat("int8", "symmetric", 32, 34),
    "Q2_K": BlockFormat("int2", "nibble_super_block", 256, 84),
    "Q3_K": BlockFormat("int3", "signed_super_block", 256, 110),
    "Q4_K": BlockFormat("int4", "super_block", 256, 144),
    "Q5_K": BlockFormat("int5", "super_block", 256, 176),
    "Q6_K": BlockFormat("int6", "signed_super_block", 256, 210),
}


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight [out_features, in_features] in the layout of the kernels that made it."""

    out_features: int
    in_features: int
    kind: WeightKind
    group_size: int
    """Inputs that share a scale; 0 for float kinds, of coded ones the exceptions that 16 outputs
    have room for."""
    scaling: Scaling
    storage: tuple[Tensor, ...]

    @property
    def is_grouped(self) -> bool:
        """Groups of inputs share a scale."""
        return self.kind in LAYOUTS

    @property
    def is_integer(self) -> bool:
        """It can be multiplied with quantized activations: codes are, or are rounded to, int8."""
        return self.is_grouped and self.kind != "float8"

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.storage)


@dataclass(frozen=True, slots=True)
class QuantizedActivation:
    """Activations [rows, features] in fewer bits: as int8 with one scale (max|x| / 127) for 32
    features, or as bfloat16."""

    rows: int
    features: int
    dtype: torch.dtype
    storage: Tensor


UniformActivation = Tensor | QuantizedActivation
"""Quantized, or float32 [rows, features]."""


@dataclass(frozen=True, slots=True)
class SplitActivation:
    """Rows in two formats: those before `boundary` in `first`, the others, numbered from 0 again,
    in `rest`. Each has room for all rows."""

    first: UniformActivation
    rest: UniformActivation
    boundary: Tensor
    """[1] int32, read when an op runs; at most the rows that it then works on."""

    @property
    def parts(self) -> tuple[UniformActivation, UniformActivation]:
        return self.first, self.rest


@dataclass(frozen=True, slots=True)
class Split:
    """What the rows from `boundary` on are held in; see `SplitActivation`."""

    dtype: torch.dtype
    boundary: Tensor


Activation = UniformActivation | SplitActivation
"""Input of a linear."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Where rows go: experts [T, K] int32 in the order of their numbers, and weights [T, K]."""

    experts: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One gated MLP of a mixture: [2F, H] and [H, F], with biases [2F] and [H]."""

    gate_up: tuple[PackedWeight, ...]
    """Of both, or of each its own."""
    down: PackedWeight
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ExpertBuffers:
    """Room for a mixture's rows, sorted by expert into slots."""

    plan: Tensor
    """int32: where they are."""
    inputs: Activation
    inner: Activation
    outputs: Tensor
    """[slots, H]."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's paged KV cache; a block holds 32 tokens.

    keys [blocks, kv heads, head size, 32], values [blocks, kv heads, 32, value size], both sizes
    padded to a multiple of 16; for int8 also scales [blocks, kv heads, 32] float32. Must start
    zeroed. (Where bfloat16 is multiplied as it is, a block's elements lie in another order:
    csrc/cache.h.) Values smaller than keys are their first elements (multi-head latent attention).
    """

    keys: Tensor
    values: Tensor
    head_size: int
    value_size: int
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None
    key_scale: float = 1.0
    value_scale: float = 1.0
    """What all keys and values are divided by, and cut off at the range, where they are held in
    floats of 8 bits."""

    @property
    def num_blocks(self) -> int:
        return self.keys.shape[0]

    @property
    def num_kv_heads(self) -> int:
        return self.keys.shape[1]

    @property
    def has_own_values(self) -> bool:
        return self.value_size == self.head_size


@dataclass(frozen=True, slots=True)
class Rotary:
    """cos and sin [positions, width / 2] float32; only `width` features from `first` on rotate."""

    cos: Tensor
    sin: Tensor
    first: int = 0
    is_interleaved: bool = False
    """Neighbouring features rotate together, and come out as two halves; else the halves do."""


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Norms of each query and key head, with weights [head size], or one row for each head."""

    query: Tensor
    key: Tensor
    epsilon: float
    kind: NormKind = "rms"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionOptions:
    """What one layer's attention asks for."""

    scale: float
    window: int | None = None
    """Each token sees at most so many tokens, itself included; None: all."""
    soft_cap: float | None = None
    """Scores become soft_cap * tanh(score / soft_cap)."""
    alibi_slopes: Tensor | None = None
    """[num_heads] float32: scores fall by so much per token of distance (Press et al. 2021)."""
    sinks: Tensor | None = None
    """[num_heads] float32: the score of one more key, whose value is zero (Xiao et al. 2023)."""
    chunk: int | None = None
    """Each token sees only tokens of its own chunk of so many positions (Llama 4)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How many rows an op works on: `control[0]` when it runs, or always `capacity`."""

    control: Tensor | None
    capacity: int

    def count(self) -> int:
        """Raises ValueError if the control tensor holds more rows than the buffers."""
        if self.control is None:
            return self.capacity
        count = int(self.control[0])
        if not 0 <= count <= self.capacity:
            raise ValueError("a row count exceeds what its buffers hold")
        return count


def are_zero_points(values: Tensor, kind: WeightKind) -> bool:
    """Whether a weight of this integer kind can hold them."""
    steps = values * ZERO_POINTS[kind].steps
    largest = 2 ** ZERO_POINTS[kind].bits - 1
    return bool(((steps == steps.round()) & (steps >= 0) & (steps <= largest)).all())


def check(
    tensor: Tensor, name: str, dtype: torch.dtype, *shape: int | None, any_device: bool = False
) -> None:
    """Raise ValueError unless `tensor` is a contiguous CPU tensor of this dtype and shape.

    None in `shape` admits any size; `any_device` admits other devices than the CPU.
    """
    right_shape = tensor.dim() == len(shape) and all(
        wanted is None or wanted == size for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    right_device = any_device or tensor.device.type == "cpu"
    if not right_shape or tensor.dtype != dtype or not right_device:
        wanted_shape = [size if size is not None else "any" for size in shape]
        raise ValueError(
            f"{name}: expected {dtype} {wanted_shape} on the CPU, "
            f"got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: must be contiguous")


def check_half_range(name: str, values: Tensor) -> None:
    """Raise ValueError unless float16 can hold values as large."""
    largest = float(values.abs().max())
    if not largest <= HALF_MAX:  # so too for NaN
        raise ValueError(f"{name}: expected up to {HALF_MAX} (float16), found {largest:.6g}")


def check_powers_of_two(name: str, values: Tensor) -> None:
    """Raise ValueError unless all are from 2 ** -127 to 2 ** 127."""
    mantissas, exponents = torch.frexp(values)
    fits = (mantissas == 0.5) & (exponents >= -126) & (exponents <= 128)
    if not bool(fits.all()):
        found = float(values[~fits][0])
        raise ValueError(f"{name}: expected 2 ** -127 to 2 ** 127, found {found:.6g}")


def check_rows(tensor: Tensor, name: str) -> None:
    """Raise ValueError unless `tensor` is a CPU matrix whose rows are contiguous."""
    if tensor.dim() != 2 or tensor.stride(1) != 1 or tensor.device.type != "cpu":
        raise ValueError(f"{name}: expected a matrix with contiguous rows on the CPU")


def check_choice(value: object, name: str, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(map(str, choices))}")


def check_strided(x: Tensor, name: str, num_rows: int | None, features: int | None) -> None:
    """Raise ValueError unless `x` is a float32 CPU matrix of this shape with contiguous rows."""
    check_rows(x, name)
    check(x[:, :0], name, torch.float32, num_rows, 0)
    if features is not None:
        check_equal(f"{name}: features", x.shape[1], features)


def check_activation(x: Activation, name: str, *, is_strided: bool = False) -> tuple[int, int]:
    """Return (rows, features); raise ValueError if it is neither quantized nor float32, or in two
    parts that differ in size."""
    if isinstance(x, SplitActivation):
        check(x.boundary, f"{name}: boundary", torch.int32, 1)
        rows, features = check_activation(x.first, name)
        rest_rows, rest_features = check_activation(x.rest, name)
        check_equal(f"{name}: rows of the rest", rest_rows, rows)
        check_equal(f"{name}: features of the rest", rest_features, features)
        return rows, features
    if isinstance(x, QuantizedActivation):
        return x.rows, x.features
    if is_strided:
        check_strided(x, name, None, None)
    else:
        check(x, name, torch.float32, None, None)
    return x.shape[0], x.shape[1]


def check_equal(name: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise ValueError(f"{name}: expected {wanted}, got {got}")


def check_multiple(name: str, value: int, of: int) -> None:
    if value <= 0 or value % of:
        raise ValueError(f"{name}: {value} is not a positive multiple of {of}")
