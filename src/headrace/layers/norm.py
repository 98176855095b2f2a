"""Root-mean-square normalisation (Zhang and Sennrich 2019) in front of a linear layer."""

from torch import Tensor

from headrace.layers.operations import Activation
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight


class RMSNorm:
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, load: ParameterLoader, name: str, size: int, epsilon: float) -> None:
        self.weight = load.tensor(f"{name}.weight", (size,))
        self.epsilon = epsilon
        self.operations = load.operations

    def __call__(self, x: Tensor, consumer: LinearWeight) -> Activation:
        """`consumer`: the weight of the linear layer that reads the result."""
        return self.operations.norm(x, self.weight, self.epsilon, consumer)
