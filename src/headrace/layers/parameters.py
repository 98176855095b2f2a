"""How layers get their parameters: checked, cast, placed on the device, and counted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.distributed.shard import Shard
from headrace.errors import CheckpointError
from headrace.layers.operations import Operations
from headrace.quantization import LinearWeight, Scheme
from headrace.weights import Part, Slice, SlicedWeights, Weights


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

    def has(self, name: str) -> bool:
        return self._weights.has(name)

    def tensor(self, name: str, shape: tuple[int, ...], share: Slice | None = None) -> Tensor:
        """One parameter in the model's dtype, or a share of its first dimension.

        Raises CheckpointError if its shape differs.
        """
        stored = self._weights.get(name)
        if stored.shape != shape:
            raise CheckpointError(
                f"tensor {name}: expected shape {list(shape)}, found {list(stored.shape)}"
            )
        cut = share.of(len(stored)) if share else slice(None)
        tensor = stored[cut].to(device=self.device, dtype=self._dtype)
        self.nbytes += tensor.nbytes
        return tensor

    def input_share(self, name: str, in_features: int) -> Slice:
        """This rank's share of the inputs of layer `name`, between the groups of its weight.

        Raises CheckpointError if there are fewer groups than ranks.
        """
        granule = self._scheme.granule(self._weights, name)
        num_groups = in_features // granule if in_features % granule == 0 else in_features
        if num_groups < self.shard.size:
            raise CheckpointError(
                f"{name}: {num_groups} groups of {granule} inputs cannot be split over "
                f"{self.shard.size} ranks"
            )
        return self.shard.slice(num_groups)

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
        rows = outputs or [Slice.whole(size) for size in out_features]
        columns = inputs or Slice.whole(in_features)
        weights = self._weights
        if not (columns.is_whole and all(share.is_whole for share in rows)):
            parts = {name: Part(share, columns) for name, share in zip(names, rows, strict=True)}
            weights = SlicedWeights(weights, parts, self._scheme.axes)
        weight = self._scheme.load(weights, names)
        counts = [share.count(size) for share, size in zip(rows, out_features, strict=True)]
        expected = [sum(counts), columns.count(in_features)]
        if [weight.out_features, weight.in_features] != expected:
            raise CheckpointError(
                f"weights of {', '.join(names)}: expected {expected} together, "
                f"found {[weight.out_features, weight.in_features]}"
            )
        self.nbytes += weight.nbytes
        return weight
