"""Which part of a model one rank has. Arithmetic only: knows no layer and no tensor."""

from dataclasses import dataclass

from headrace.kernels.tensors import GROUP_SIZE
from headrace.weights.sliced import Slice


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `size` that together run one model."""

    rank: int = 0
    size: int = 1

    def slice(self, units: int) -> Slice:
        """This rank's share of `units` heads, groups of features or token ids, as even as their
        number allows; there are at least as many as ranks."""
        assert units >= self.size
        return Slice(self.rank * units // self.size, (self.rank + 1) * units // self.size, units)

    def shared_slice(self, units: int) -> Slice:
        """The same, but of fewer units than ranks, several ranks have the same one."""
        if units >= self.size:
            return self.slice(units)
        first = self.rank * units // self.size
        return Slice(first, first + 1, units)


def allowed_sizes(num_heads: int, num_kv_heads: int, intermediate_size: int) -> list[int]:
    """Numbers of ranks that divide the heads evenly and leave each a group of MLP features.

    They also divide the key-value heads, or are a multiple of their number (each is then on several
    ranks). MLPs and vocabularies are divided unevenly where need be: 32,001 tokens are no reason to
    refuse.
    """
    groups = (
        intermediate_size // GROUP_SIZE
        if intermediate_size % GROUP_SIZE == 0
        else intermediate_size
    )
    return [
        size
        for size in range(1, min(num_heads, groups) + 1)
        if num_heads % size == 0 and (num_kv_heads % size == 0 or size % num_kv_heads == 0)
    ]
