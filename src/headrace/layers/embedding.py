"""Token ids to vectors, and vectors to logits; one matrix may serve both.

Both are split over ranks by token ids, so that one matrix still serves both and no rank keeps more
than its share: the price is one more sum over the ranks per pass, beside two for every layer.
"""

from torch import Tensor

from headrace.layers.operations import Activation
from headrace.layers.parameters import ParameterLoader


class Embedding:
    """[T] ids to [T, hidden_size]."""

    def __init__(self, load: ParameterLoader, name: str, vocab_size: int, hidden_size: int) -> None:
        self.vocabulary = load.shard.slice(vocab_size)
        self.weight = load.linear([name], hidden_size, [vocab_size], outputs=[self.vocabulary])
        self.operations = load.operations

    def __call__(self, token_ids: Tensor) -> Tensor:
        vectors = self.operations.embedding(token_ids, self.weight, self.vocabulary)
        return vectors if self.vocabulary.is_whole else self.operations.all_reduce(vectors)


class Head:
    """[R, hidden_size] to logits [R, vocab_size], float32."""

    def __init__(
        self, load: ParameterLoader, name: str, embedding: Embedding, *, tied: bool
    ) -> None:
        self.operations = load.operations
        self.vocabulary = embedding.vocabulary
        self.weight = embedding.weight
        if not tied:
            self.weight = load.linear(
                [name],
                embedding.weight.in_features,
                [self.vocabulary.total],
                outputs=[self.vocabulary],
            )

    def __call__(self, hidden: Activation) -> Tensor:
        logits = self.operations.linear(hidden, self.weight)
        if not self.vocabulary.is_whole:
            logits = self.operations.all_gather(logits, self.vocabulary)
        return logits.float()
