"""`Recipe`: what shall become of the linear layers. One object says it for all of the package."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from headrace.calibration.gptq import quantize_gptq
from headrace.calibration.grid import Grid, round_to_nearest
from headrace.calibration.hessian import Hessian
from headrace.calibration.linear import CalibrationLinear
from headrace.errors import StartupError
from headrace.quantization.matrix import QuantizedMatrix

Method = Literal["gptq", "int4"]
GROUP_SIZES = (32, 64, 128, -1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method and its settings."""

    method: Method = "gptq"
    """"gptq": the calibration text decides what is rounded how, stored as GPTQ. "int4": rounded to
    nearest, stored as compressed-tensors' pack-quantized."""
    bits: int = 4
    group_size: int = 128
    """Inputs that share a scale; -1: all."""
    is_symmetric: bool = True
    is_act_order: bool = False
    damping: float = 0.01
    """Greater than 0."""

    @property
    def is_calibrated(self) -> bool:
        """Whether the method needs a text."""
        return self.method == "gptq"

    def check(self, linear: CalibrationLinear, *, is_transposed: bool) -> None:
        """Raises StartupError for a layer that the format cannot hold in this way."""
        names, in_features = linear.names, linear.in_features
        if is_transposed and self.method == "int4":
            raise StartupError(
                f"{names[0]} is transposed in the checkpoint (Conv1D), for which "
                "compressed-tensors has no form: use --method gptq, or --quantize while loading"
            )
        size = in_features if self.group_size == -1 else self.group_size
        if in_features % size:
            fitting = [str(s) for s in GROUP_SIZES if s == -1 or in_features % s == 0]
            raise StartupError(
                f"--group-size {size} does not divide the {in_features} inputs of {names[0]}; "
                f"those that do are {', '.join(fitting)}"
            )
        per_word = 32 // self.bits
        for name, outputs in zip(names, linear.sizes, strict=True):
            if in_features % per_word or outputs % per_word:
                raise StartupError(
                    f"{name} has {in_features} inputs and {outputs} outputs; the format packs "
                    f"{self.bits}-bit numbers by {per_word}"
                )

    def quantize(self, matrix: Tensor, hessian: Hessian | None) -> QuantizedMatrix:
        """[out_features, in_features] float32; without a Hessian it is rounded to nearest."""
        grid = Grid(self.bits, self.is_symmetric)
        size = matrix.shape[1] if self.group_size == -1 else self.group_size
        if hessian is None:
            return round_to_nearest(matrix, grid, size)
        return quantize_gptq(
            matrix,
            hessian.matrix,
            grid,
            size,
            damping=self.damping,
            is_act_order=self.is_act_order,
        )
