"""How layers get their parameters: checked, cast, placed on the device, and counted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.distributed.shard import Shard
from headrace.errors import CheckpointError
from headrace.layers.operations import Operations
from headrace.quantization import LinearWeight, Scheme
from headrace.weights import DummyWeights, Part, Slice, Weights


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
        shard: Shard | None = None,
    ) -> None:
        self.nbytes = 0
        self.shard = shard or Shard()
        """Which part of the model the layers are to have."""
        self.operations = operations
        """What the layers compute with."""
        self._weights = weights
        self._scheme = scheme
        self._dtype = dtype
        self.device = device

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype | None = None,
        share: Slice | None = None,
    ) -> Tensor:
        """One parameter, or a share of its first dimension; without `dtype` in the model's.

        Raises CheckpointError if its shape differs.
        """
        self._expect(name, shape)
        stored = self._weights.get(name)
        if stored.shape != shape:
            raise CheckpointError(
                f"tensor {name}: expected shape {list(shape)}, found {list(stored.shape)}"
            )
        cut = share.of(len(stored)) if share else slice(None)
        tensor = stored[cut].to(device=self.device, dtype=dtype or self._dtype)
        self.nbytes += tensor.nbytes
        return tensor

    def linear(
        self,
        names: Sequence[str],
        in_features: int,
        out_features: Sequence[int],
        *,
        outputs: Sequence[Slice] | None = None,
        inputs: Slice | None = None,
    ) -> LinearWeight:
        """The layers `names` fused along their outputs, one size in `out_features` for each.

        Of each layer this rank gets the share in `outputs`, and of all the share `inputs`.
        """
        for name, size in zip(names, out_features, strict=True):
            self._expect(f"{name}.weight", (size, in_features))
        rows = outputs or [Slice.whole(size) for size in out_features]
        columns = inputs or Slice.whole(in_features)
        weight = self._scheme.load(self._weights, names, [Part(share, columns) for share in rows])
        counts = [share.count(size) for share, size in zip(rows, out_features, strict=True)]
        expected = [sum(counts), columns.count(in_features)]
        if [weight.out_features, weight.in_features] != expected:
            raise CheckpointError(
                f"weights of {', '.join(names)}: expected {expected} together, "
                f"found {[weight.out_features, weight.in_features]}"
            )
        self.nbytes += weight.nbytes
        return weight

    def _expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Told of every parameter before it is read."""


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
        shard: Shard | None = None,
    ) -> None:
        super().__init__(weights, scheme, operations, dtype=dtype, device=device, shard=shard)
        self._shapes = weights.shapes

    def _expect(self, name: str, shape: tuple[int, ...]) -> None:
        self._shapes[name] = shape
