"""Token ids to vectors, and vectors to logits; one matrix may serve both."""

from torch import Tensor
from torch.nn import functional

from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight
from headrace.quantization.none import DenseWeight


class Embedding:
    """[T] ids to [T, hidden_size]."""

    def __init__(self, load: ParameterLoader, name: str, vocab_size: int, hidden_size: int) -> None:
        self.table = load.tensor(f"{name}.weight", (vocab_size, hidden_size))

    def __call__(self, token_ids: Tensor) -> Tensor:
        return functional.embedding(token_ids, self.table)


class Head:
    """[R, hidden_size] to logits [R, vocab_size], float32."""

    def __init__(
        self, load: ParameterLoader, name: str, embedding: Embedding, *, tied: bool
    ) -> None:
        vocab_size, hidden_size = embedding.table.shape
        self.weight: LinearWeight
        if tied:
            self.weight = DenseWeight(embedding.table)
        else:
            self.weight = load.linear([name], hidden_size, [vocab_size])

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.weight.apply(hidden, None, None).float()
