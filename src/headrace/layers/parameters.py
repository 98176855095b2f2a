"""How layers get their parameters: checked, cast, placed on the device, and counted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.layers.operations import Operations
from headrace.quantization import LinearWeight, Scheme
from headrace.weights import DummyWeights, Weights


class ParameterLoader:
    """Reads parameters for the layers of one model; `nbytes` counts what they keep."""

    def __init__(
        self,
        weights: Weights,
        scheme: Scheme,
        operations: Operations,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.nbytes = 0
        self.operations = operations
        """What the layers compute with."""
        self._weights = weights
        self._scheme = scheme
        self._dtype = dtype
        self.device = device

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """One parameter; without `dtype` in the model's. Raises CheckpointError if its shape
        differs."""
        stored = self._weights.get(name)
        if stored.shape != shape:
            raise CheckpointError(
                f"tensor {name}: expected shape {list(shape)}, found {list(stored.shape)}"
            )
        tensor = stored.to(device=self.device, dtype=dtype or self._dtype)
        self.nbytes += tensor.nbytes
        return tensor

    def linear(
        self, names: Sequence[str], in_features: int, out_features: Sequence[int]
    ) -> LinearWeight:
        """The layers `names` fused along their outputs, one size in `out_features` for each."""
        weight = self._scheme.load(self._weights, names)
        expected = [sum(out_features), in_features]
        if [weight.out_features, weight.in_features] != expected:
            raise CheckpointError(
                f"weights of {', '.join(names)}: expected {expected} together, "
                f"found {[weight.out_features, weight.in_features]}"
            )
        self.nbytes += weight.nbytes
        return weight


class DummyLoader(ParameterLoader):
    """Random parameters, of whatever names and shapes the layers ask for."""

    def __init__(
        self,
        weights: DummyWeights,
        scheme: Scheme,
        operations: Operations,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(weights, scheme, operations, dtype=dtype, device=device)
        self._shapes = weights.shapes

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        self._shapes[name] = shape
        return super().tensor(name, shape, dtype)

    def linear(
        self, names: Sequence[str], in_features: int, out_features: Sequence[int]
    ) -> LinearWeight:
        for name, size in zip(names, out_features, strict=True):
            self._shapes[f"{name}.weight"] = (size, in_features)
        return super().linear(names, in_features, out_features)
