"""No quantization scheme: weights as the checkpoint has them.

In plain torch that is a matrix in the dtype of the activations (GGUF blocks are unpacked); the CPU
kernels keep blocks quantized and 16-bit floats narrow. Floats of 8 bits stay such anywhere.
"""

import torch

from headrace.quantization.float8 import read_float8
from headrace.quantization.place import Matrix, MatrixScheme, check_floats
from headrace.weights.base import Weights


class Unquantized(MatrixScheme):
    """See `quantization.base.Scheme`."""

    def read(self, weights: Weights, name: str) -> Matrix:
        raw = weights.raw(f"{name}.weight")
        if raw is not None:
            return raw
        matrix = weights.get(f"{name}.weight")
        if matrix.dtype == torch.float8_e4m3fn:
            return read_float8(weights, name)
        return check_floats(f"{name}.weight", matrix)
