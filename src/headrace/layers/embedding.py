"""Token ids to vectors, and vectors to logits; one matrix may serve both."""

from torch import Tensor

from headrace.layers.operations import Activation
from headrace.layers.parameters import ParameterLoader


class Embedding:
    """[T] ids to [T, hidden_size]."""

    def __init__(self, load: ParameterLoader, name: str, vocab_size: int, hidden_size: int) -> None:
        self.weight = load.linear([name], hidden_size, [vocab_size])
        self.operations = load.operations

    def __call__(self, token_ids: Tensor) -> Tensor:
        return self.operations.embedding(token_ids, self.weight)


class Head:
    """[R, hidden_size] to logits [R, vocab_size], float32."""

    def __init__(
        self, load: ParameterLoader, name: str, embedding: Embedding, *, tied: bool
    ) -> None:
        self.operations = load.operations
        self.weight = embedding.weight
        if not tied:
            self.weight = load.linear(
                [name], embedding.weight.in_features, [embedding.weight.out_features]
            )

    def __call__(self, hidden: Activation) -> Tensor:
        return self.operations.linear(hidden, self.weight).float()
