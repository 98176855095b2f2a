"""Float checkpoints that are quantized while they are loaded, one layer at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from headrace.quantization.base import Target
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.place import Matrix, MatrixScheme, read_floats
from headrace.quantization.rounding import (
    round_between,
    round_codebook,
    round_float8,
    round_integers,
)
from headrace.weights.base import Weights

Rounding = Callable[[Tensor], QuantizedMatrix]
TABLES = ("embed_tokens", "lm_head")
"""The embedding and the output head, which the formats of others leave alone."""


@dataclass(frozen=True)
class OnLoad:
    """What becomes of a float matrix."""

    layers: Rounding
    tables: Rounding | None = None
    """For the embedding and the head; None: they stay as they are."""


class RoundedScheme(MatrixScheme):
    """See `quantization.base.Scheme`."""

    def __init__(self, rule: OnLoad, target: Target) -> None:
        super().__init__({}, target)
        self.rule = rule

    def read(self, weights: Weights, name: str) -> Matrix:
        matrix = read_floats(weights, f"{name}.weight")
        is_table = name.split(".")[-1] in TABLES
        rounding = self.rule.tables if is_table else self.rule.layers
        return matrix if rounding is None else rounding(matrix)


BYTES = partial(round_integers, bits=8, group_size=32)
PER_OUTPUT = OnLoad(partial(round_integers, bits=8, group_size=-1))

ON_LOAD: dict[str, OnLoad] = {
    "int4": OnLoad(partial(round_between, bits=4, group_size=32), tables=BYTES),
    "int8": OnLoad(BYTES, tables=BYTES),
    "eetq": PER_OUTPUT,
    # LLM.int8's weights. Its search for outliers among the activations is not needed: ours are
    # rounded in groups of 32, not by the row.
    "bitsandbytes": PER_OUTPUT,
    "bitsandbytes-nf4": OnLoad(partial(round_codebook, element="nf4", group_size=64)),
    "bitsandbytes-fp4": OnLoad(partial(round_codebook, element="fp4", group_size=64)),
    "fp8": OnLoad(round_float8),
}
"""By --quantize."""
