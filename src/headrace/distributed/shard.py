"""Which part of a model one rank has. Arithmetic only: knows no layer and no tensor."""

from dataclasses import dataclass

from headrace.weights.parts import Slice

BLOCK_SIZES = (256, 128, 64, 32)
"""Features that share a scale or a block in some format; the kernels want multiples of 32."""


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

    def features(self, size: int) -> Slice:
        """This rank's share of the inner features of an MLP: whole blocks, as large as leave at
        least four for each rank, so that the shares differ little; without blocks, any."""
        num_blocks = [size // block for block in BLOCK_SIZES if size % block == 0]
        for wanted in (4 * self.size, self.size):
            for count in num_blocks:
                if count >= wanted:
                    return self.slice(count)
        return self.slice(size)


def allowed_sizes(num_heads: int, num_kv_heads: int) -> list[int]:
    """Numbers of ranks that divide the heads evenly, and the key-value heads too, or are a multiple
    of their number (each is then on several ranks).

    MLPs and vocabularies may be divided unevenly: 32,001 tokens are no reason to refuse.
    """
    return [
        size
        for size in range(1, num_heads + 1)
        if num_heads % size == 0 and (num_kv_heads % size == 0 or size % num_kv_heads == 0)
    ]
