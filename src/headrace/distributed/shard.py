"""Which part of a model one rank has. Arithmetic only: knows no layer and no tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.weights.sliced import Slice


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `size` that together run one model."""

    rank: int = 0
    size: int = 1

    def slice(self, units: int) -> Slice:
        """This rank's share of `units` heads, features or token ids, as even as they allow.

        Of fewer units than ranks, several ranks have the same one.
        """
        start = self.rank * units // self.size
        return Slice(start, max(start + 1, (self.rank + 1) * units // self.size), units)


def allowed_sizes(
    num_heads: int, num_kv_heads: int, intermediate_sizes: Sequence[int]
) -> list[int]:
    """Numbers of ranks that divide heads and MLPs evenly.

    They also divide the key-value heads, or are a multiple of their number (each is then on several
    ranks). Vocabularies are divided unevenly where need be: 32,001 tokens are no reason to refuse.
    """
    return [
        size
        for size in range(1, num_heads + 1)
        if num_heads % size == 0
        and (num_kv_heads % size == 0 or size % num_kv_heads == 0)
        and all(features % size == 0 for features in intermediate_sizes)
    ]
