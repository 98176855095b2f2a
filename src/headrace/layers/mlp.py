"""The gated MLP (Shazeer 2020): down(activation(gate(x)) * up(x))."""

from torch import Tensor

from headrace.layers.activation import ACTIVATIONS
from headrace.layers.linear import Linear
from headrace.layers.parameters import ParameterLoader


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
        self.activation = ACTIVATIONS[activation]
        self.gate_up = Linear(
            load,
            [f"{prefix}.gate_proj", f"{prefix}.up_proj"],
            hidden_size,
            [intermediate_size] * 2,
            bias=bias,
        )
        self.down = Linear(
            load, [f"{prefix}.down_proj"], intermediate_size, [hidden_size], bias=bias
        )

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.activation(gate) * up, residual)
