"""The MLP: down(activation(up(x))), or gated (Shazeer 2020): down(activation(gate(x)) * up(x))."""

from dataclasses import dataclass

from torch import Tensor

from headrace.layers.linear import Linear
from headrace.layers.operations import Activation
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight


@dataclass(frozen=True, kw_only=True)
class MLPSpec:
    """The sizes of one MLP."""

    intermediate_size: int
    activation: str
    is_gated: bool = True
    bias: bool = False


class MLP:
    """[T, hidden_size] to [T, hidden_size]."""

    def __init__(self, load: ParameterLoader, prefix: str, hidden_size: int, spec: MLPSpec) -> None:
        names, inner = ["gate_proj", "up_proj"], spec.intermediate_size
        if not spec.is_gated:
            names = ["up_proj"]
        share = load.shard.features(inner)
        self.spec = spec
        self.operations = load.operations
        self.up = Linear(
            load,
            [f"{prefix}.{name}" for name in names],
            hidden_size,
            [inner] * len(names),
            bias=spec.bias,
            outputs=[share] * len(names),
        )
        self.down = Linear(
            load, [f"{prefix}.down_proj"], inner, [hidden_size], bias=spec.bias, inputs=share
        )

    @property
    def input_weight(self) -> LinearWeight:
        """The weight that reads the layer's input."""
        return self.up.weight

    def __call__(self, x: Activation, residual: Tensor | None) -> Tensor:
        """Added to the residual stream if one is given, in its memory."""
        activate = self.operations.gated if self.spec.is_gated else self.operations.activated
        inner = activate(x, self.up.weight, self.up.bias, self.spec.activation, self.down.weight)
        return self.down(inner, residual)
