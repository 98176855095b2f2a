"""The checkpoint's own layers, in whose place quantized tensors shall stand: ours are parts of them
where it fuses layers, or have their rows in another order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.calibration.linear import CalibrationLinear
from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import StartupError
from headrace.models import spec_of
from headrace.weights import open_weights
from headrace.weights.naming import Rows, Source

StoredLayers = dict[str, Tensor]
"""By the names of the checkpoint's layers that make up one of ours: for each of their rows, [out]
int64, its number among ours. Rows are rounded independently, so that any order of them will do."""


class StoredNames:
    """From our layers to those of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises StartupError for a model that is not native."""
        self._naming = spec_of(checkpoint.config).naming.within(checkpoint.text_part)
        self._weights = open_weights(checkpoint)

    @property
    def head(self) -> str:
        """The output head's name, whether the checkpoint has one or not."""
        return self._naming.head

    def of(self, linear: CalibrationLinear) -> StoredLayers:
        """Raises StartupError for a layer that shares a tensor with others."""
        found: dict[str, list[tuple[Rows | None, Tensor]]] = {}
        numbers = torch.arange(linear.out_features).split(linear.sizes)
        for name, ours in zip(linear.names, numbers, strict=True):
            source = self._naming.source(name)
            if source.num_parts is not None or source.expert is not None:
                raise StartupError(
                    f"{name} is kept in the checkpoint's {source.name} with other layers: such a "
                    "model can only be quantized while loading (--quantize)"
                )
            found.setdefault(self._stored_name(source), []).append((source.rows, ours))
        return {name: _in_stored_order(name, parts) for name, parts in found.items()}

    def is_transposed(self, linear: CalibrationLinear) -> bool:
        """Stored as [in_features, out_features]."""
        return self._naming.source(linear.names[0]).is_transposed

    def _stored_name(self, source: Source) -> str:
        if self._weights.has(f"{source.name}.weight"):
            return source.name
        return source.name.removeprefix(self._naming.base)


def _in_stored_order(name: str, parts: Sequence[tuple[Rows | None, Tensor]]) -> Tensor:
    """`parts`: which rows of the stored matrix they are, and their numbers among ours."""
    places = torch.arange(sum(len(ours) for _, ours in parts))
    order = torch.full_like(places, -1)
    for rows, ours in parts:
        order[places if rows is None else rows(places)] = ours
    if bool((order < 0).any()):
        raise StartupError(f"{name} has rows that the model does not use; it cannot be quantized")
    return order
