"""From our names of parameters to a checkpoint's: other names, fused layers, reordered rows.

Our names are Llama's in Hugging Face's format (`models.decoder` lists them). Knows no model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from headrace.checkpoint.multimodal import TextPart
from headrace.errors import CheckpointError
from headrace.weights.base import RawTensor, Weights

Rows = Callable[[Tensor], Tensor]
"""Picks and reorders rows: a function of tensors [rows, ...] that leaves each row as it is."""
LAYERS = "model.layers."
ROW_KINDS = ("weight", "bias", "blocks", "scales")
"""Parameters that have a row for each output (the last two are MXFP4's)."""
LAYER_KINDS = ("k_scale", "v_scale", "kv_scale", "output_scale")
"""Parameters that a fused layer has once."""
QUANTIZED = ("weight", "qweight", "weight_packed")
"""What a linear layer's matrix is called, quantized or not."""


@dataclass(frozen=True)
class Source:
    """Where the checkpoint keeps a layer's parameters."""

    name: str
    """Of the checkpoint's layer; "{}" in it stands for the part's number."""
    rows: Rows | None = None
    """Which rows of weight and bias are ours; None: all, as they are."""
    is_transposed: bool = False
    """The weight is stored as [in_features, out_features] (GPT-2's Conv1D)."""
    in_features: int | None = None
    """Stored in either order: it is transposed where its last dimension is not of this size."""
    num_parts: int | None = None
    """Stored in so many tensors, to be stacked; None: in one."""
    expert: int | None = None
    """Stored with those of other experts, of which ours has this number."""
    is_parameter: bool = False
    """Named as a parameter, not as a layer that has some: "down_proj" and "down_proj_bias"."""

    def parameter(self, kind: str) -> str:
        """Its name for "weight", "bias" and what else the layer has."""
        if not self.is_parameter:
            return f"{self.name}.{kind}"
        return self.name if kind == "weight" else f"{self.name}_{kind}"


@dataclass(frozen=True)
class Naming:
    """Our names (without ".weight" or ".bias") to the checkpoint's; what is missing is equal."""

    base: str = "model."
    """Prefix of all but the head; files written without the head lack it."""
    layers: str = "layers."
    """Prefix of the layers, after `base`."""
    inner: Mapping[str, str | Source] = field(default_factory=dict)
    """Within a layer: "self_attn.q_proj"."""
    outer: Mapping[str, str | Source] = field(default_factory=dict)
    """Outside the layers: "model.norm", without `base`: "norm"."""
    head: str = "lm_head"

    def within(self, part: TextPart | None) -> "Naming":
        """Of the same model where it is a part of a checkpoint."""
        return self if part is None else replace(self, base=part.base, head=part.head)

    def source(self, name: str) -> Source:
        """`name`: a layer's, such as "model.layers.3.mlp.up_proj"."""
        if name.startswith(LAYERS):
            number, _, inner = name.removeprefix(LAYERS).partition(".")
            return _prefixed(f"{self.base}{self.layers}{number}.", self.inner.get(inner, inner))
        if not name.startswith("model."):
            return Source(self.head)
        outer = name.removeprefix("model.")
        return _prefixed(self.base, self.outer.get(outer, outer))


def _prefixed(prefix: str, source: str | Source) -> Source:
    if isinstance(source, str):
        return Source(prefix + source)
    return replace(source, name=prefix + source.name)


class RenamedWeights:
    """`Weights` by our names over those of a checkpoint."""

    def __init__(self, weights: Weights, naming: Naming) -> None:
        self._weights = weights
        self._naming = naming

    def has(self, name: str) -> bool:
        source, kind = self._find(name)
        return all(self._weights.has(part) for part in _parts(source, kind))

    def get(self, name: str) -> Tensor:
        source, kind = self._find(name)
        if kind in LAYER_KINDS:
            source = replace(source, rows=None)
        if source.rows is not None and kind not in ROW_KINDS:
            raise CheckpointError(
                f"tensor {source.parameter(kind)}: rows of packed numbers cannot be picked"
            )
        tensors = [self._weights.get(part) for part in _parts(source, kind)]
        tensor = torch.stack(tensors) if source.num_parts is not None else tensors[0]
        if source.expert is not None:
            tensor = _picked(lambda experts: experts[source.expert], tensor, source)
        is_transposed = kind == "weight" and _is_transposed(source, tensor)
        if is_transposed:
            tensor = _picked(torch.t, tensor, source)
        ours = tensor if source.rows is None else _picked(source.rows, tensor, source)
        return ours.contiguous() if is_transposed else ours

    def stored(self, layer: str) -> "StoredLayer | None":
        """See `stored_layer`."""
        source = self._naming.source(layer)
        if source.num_parts is not None or source.expert is not None:
            return None
        if source.is_transposed and self.has(f"{layer}.weight"):
            return None
        name = self._prefixed_as_stored(source, QUANTIZED).name
        rows = None if source.rows is None else partial(_picked, source.rows, source=source)
        return StoredLayer(self._weights, name, rows)

    def raw(self, name: str) -> RawTensor | None:
        source, kind = self._find(name)
        if source.is_transposed or source.num_parts is not None or source.expert is not None:
            return None
        raw = self._weights.raw(source.parameter(kind))
        if raw is None or source.rows is None:
            return raw
        return raw.rows(partial(_picked, source.rows, source=source))

    def _find(self, name: str) -> tuple[Source, str]:
        """The source of a parameter, and the part of its name after the last dot."""
        layer, _, kind = name.rpartition(".")
        source = self._naming.source(layer)
        return self._prefixed_as_stored(source, (kind,)), kind

    def _prefixed_as_stored(self, source: Source, kinds: Sequence[str]) -> Source:
        """With the naming's base, or without it where the checkpoint's names lack it."""
        short = replace(source, name=source.name.removeprefix(self._naming.base))
        for candidate in (source, short):
            if any(self._weights.has(next(_parts(candidate, kind))) for kind in kinds):
                return candidate
        return source


@dataclass(frozen=True)
class StoredLayer:
    """A layer under the checkpoint's own name."""

    weights: Weights
    name: str
    rows: Rows | None
    """Which rows of the matrix are ours. Raises CheckpointError if it has too few."""


def stored_layer(weights: Weights, layer: str) -> StoredLayer | None:
    """Where a linear layer lies, for who reads all its tensors; None: where `weights` says.

    For quantized layers, whose rows can be picked when all tensors are read only.
    """
    return weights.stored(layer) if isinstance(weights, RenamedWeights) else None


def _parts(source: Source, kind: str) -> Iterator[str]:
    name = source.parameter(kind)
    for part in range(source.num_parts or 1):
        yield name.format(part) if source.num_parts is not None else name


def _is_transposed(source: Source, tensor: Tensor) -> bool:
    if source.in_features is None:
        return source.is_transposed
    return tensor.shape[-1] != source.in_features


def _picked(rows: Rows, tensor: Tensor, source: Source) -> Tensor:
    try:
        return rows(tensor)
    except (RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"tensor {source.name}: shape {list(tensor.shape)} does not fit the config: {error}"
        ) from None


def part(start: int, count: int) -> Rows:
    """`count` rows from `start`."""
    return lambda rows: rows.narrow(0, start, count)


def every_other(first: int) -> Rows:
    """Even rows from 0 on, or odd ones from 1 on."""
    return lambda rows: rows[first::2]


def grouped_heads(num_groups: int, group_size: int, first: int, count: int) -> Rows:
    """Heads `first` to `first + count` of each group of `group_size` heads."""

    def pick(rows: Tensor) -> Tensor:
        heads = rows.unflatten(0, (num_groups, group_size, -1))
        return heads.narrow(1, first, count).flatten(0, 2)

    return pick


def deinterleaved(num_heads: int, rotary_size: int) -> Rows:
    """Rows of rotary pairs (2i, 2i + 1) to (i, i + rotary_size / 2), within each head."""

    def reorder(rows: Tensor) -> Tensor:
        heads = rows.unflatten(0, (num_heads, -1))
        pairs = heads[:, :rotary_size].unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
        return torch.cat((pairs, heads[:, rotary_size:]), dim=1).flatten(0, 1)

    return reorder
