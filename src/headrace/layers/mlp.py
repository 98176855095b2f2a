"""The gated MLP (Shazeer 2020): down(activation(gate(x)) * up(x))."""

from torch import Tensor

from headrace.layers.linear import Linear
from headrace.layers.operations import Activation
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight


class GatedMLP:
    """[T, hidden_size] to [T, hidden_size], added to the residual stream."""

    def __init__(
        self,
        load: ParameterLoader,
        prefix: str,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        *,
        bias: bool,
    ) -> None:
        self.activation = activation
        self.operations = load.operations
        inner = load.shard.features(intermediate_size)
        self.gate_up = Linear(
            load,
            [f"{prefix}.gate_proj", f"{prefix}.up_proj"],
            hidden_size,
            [intermediate_size] * 2,
            bias=bias,
            outputs=[inner, inner],
        )
        self.down = Linear(
            load,
            [f"{prefix}.down_proj"],
            intermediate_size,
            [hidden_size],
            bias=bias,
            inputs=inner,
        )

    @property
    def input_weight(self) -> LinearWeight:
        """The weight that reads the layer's input."""
        return self.gate_up.weight

    def __call__(self, x: Activation, residual: Tensor) -> Tensor:
        gated = self.operations.gated(
            x, self.gate_up.weight, self.gate_up.bias, self.activation, self.down.weight
        )
        return self.down(gated, residual)
