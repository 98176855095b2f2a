"""Linear layers that show what they read, and whose weights come and go.

`CalibrationScheme` stands where the checkpoint's scheme would: the decoder notices nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from headrace.calibration.hessian import Hessian
from headrace.quantization.dense import DenseWeight
from headrace.quantization.place import read_floats
from headrace.weights import Part, Weights


class CalibrationLinear:
    """A `LinearWeight` in float32 that is read from the checkpoint when first applied."""

    def __init__(self, weights: Weights, names: Sequence[str]) -> None:
        self.names = names
        self._weights = weights
        shapes = [self._stored(name).shape for name in names]
        self.sizes = [shape[0] for shape in shapes]
        """Outputs of each of the fused layers."""
        self.out_features, self.in_features = sum(self.sizes), shapes[0][1]
        self.nbytes = 4 * self.out_features * self.in_features
        self.hessian: Hessian | None = None
        """Hears of every input while it is set."""
        self._matrix: Tensor | None = None

    @property
    def matrix(self) -> Tensor:
        """[out_features, in_features] float32."""
        if self._matrix is None:
            self._matrix = torch.cat([self._stored(name).float() for name in self.names])
        return self._matrix

    @matrix.setter
    def matrix(self, matrix: Tensor) -> None:
        self._matrix = matrix

    def release(self) -> None:
        """Forget the matrix; it can be read again."""
        self._matrix = None

    def apply(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        if self.hessian is not None:
            self.hessian.add(x)
        return DenseWeight(self.matrix).apply(x, bias, residual)

    def lookup(self, token_ids: Tensor) -> Tensor:
        (name,) = self.names
        return functional.embedding(token_ids, self._stored(name)).float()

    def _stored(self, name: str) -> Tensor:
        return read_floats(self._weights, f"{name}.weight")


class CalibrationScheme:
    """See `quantization.base.Scheme`; `linears` holds all that were loaded."""

    def __init__(self) -> None:
        self.linears: list[CalibrationLinear] = []

    def load(
        self, weights: Weights, names: Sequence[str], parts: Sequence[Part]
    ) -> CalibrationLinear:
        """All of them: the model is not split."""
        self.linears.append(CalibrationLinear(weights, names))
        return self.linears[-1]

    def of_layer(self, layer: int) -> list[CalibrationLinear]:
        """Those of one decoder layer."""
        prefix = f"model.layers.{layer}."
        return [linear for linear in self.linears if linear.names[0].startswith(prefix)]
