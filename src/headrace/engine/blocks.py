"""The pool of KV-cache blocks and the prefix cache over it.

Knows block ids, how many requests use each, and digests of full blocks; knows no requests and
no tensors. A block is in exactly one state:

    unused     nobody refers to it, its content is worthless
    in use     one or more requests have it in their block table; cached or not
    evictable  nobody refers to it, but its content can still be hit; least recently used goes first
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import sha256


def root_digest(cache_salt: str) -> bytes:
    """Parent of a sequence's first block."""
    return sha256(cache_salt.encode()).digest()


def chain_digest(parent: bytes, token_ids: Sequence[int], num_generated: int = 0) -> bytes:
    """Name a full block by its own tokens and, through `parent`, all tokens before them.

    `num_generated`: how many of its tokens, the last ones, count as other than prompt tokens.
    """
    kinds = array("q", [num_generated]) if num_generated else array("q")
    return sha256(parent + (array("q", token_ids) + kinds).tobytes()).digest()


class BlockPool:
    """Hands out blocks, counts references, and remembers the content of full blocks."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._cached: dict[bytes, int] = {}
        self._unused = list(range(num_blocks - 1, -1, -1))
        self._evictable: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can hand out."""
        return len(self._unused) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    def allocate(self) -> int:
        """Return a block with one reference, unused ones first. The caller checks `num_free`."""
        if self._unused:
            block = self._unused.pop()
        else:
            block, _ = self._evictable.popitem(last=False)
            self._drop_digest(block)
        self._references[block] = 1
        return block

    def lookup(self, digest: bytes) -> int | None:
        """Return the block with this content, without referring to it."""
        return self._cached.get(digest)

    def is_in_use(self, block: int) -> bool:
        return self._references[block] > 0

    def share(self, block: int) -> None:
        """Add a reference to a cached block."""
        if not self._references[block]:
            del self._evictable[block]
        self._references[block] += 1

    def insert(self, block: int, digest: bytes) -> None:
        """Make a full, computed block available to others.

        When another block has the same content already, that one stays and this one is private.
        """
        if digest not in self._cached:
            self._cached[digest] = block
            self._digests[block] = digest

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference to each block of a block table.

        The table's end becomes evictable first: a prefix is of use without its continuation, but
        not the other way round.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._digests[block] is None:
                self._unused.append(block)
            else:
                self._evictable[block] = None

    def forget(self, blocks: Iterable[int]) -> None:
        """Take blocks that are in use out of the prefix cache: their content is not trusted."""
        for block in blocks:
            self._drop_digest(block)

    def _drop_digest(self, block: int) -> None:
        digest = self._digests[block]
        if digest is not None:
            del self._cached[digest]
            self._digests[block] = None

    def check(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Assert that every block is in one state and that the references are those given."""
        tables = [list(table) for table in block_tables]
        assert all(len(set(table)) == len(table) for table in tables), "block twice in one table"
        owners = Counter(block for table in tables for block in table)
        assert self._references == [owners[b] for b in range(self.num_blocks)], "leak"
        states = Counter([*self._unused, *self._evictable, *owners])
        assert states == Counter(range(self.num_blocks)), "block in two states or in none"
        digests = {d: b for b, d in enumerate(self._digests) if d is not None}
        assert digests == self._cached, "digests and cache differ"
        assert all(self._digests[block] is None for block in self._unused), "unused but cached"
        assert all(self._digests[block] is not None for block in self._evictable), "lost block"
