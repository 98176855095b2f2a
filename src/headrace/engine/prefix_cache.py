"""Sharing of computed blocks between requests that begin alike (automatic prefix caching).

Knows which blocks of a request can come from others or go to others; the pool knows where they
are, and the scheduler when to ask.
"""

from headrace.engine.blocks import BlockPool
from headrace.engine.request import Request


class PrefixCache:
    """Blocks are shared from the moment they are full and computed, while their owner still runs.

    Requests that arrive together compute a common prefix once: a request whose next block another
    one computes in the same step waits for it, and looks again at every block boundary.
    """

    def __init__(self, pool: BlockPool, block_size: int, *, is_enabled: bool) -> None:
        self._pool = pool
        self._block_size = block_size
        self._is_enabled = is_enabled
        self._in_progress: set[bytes] = set()
        """Digests of the blocks that this step's prompt chunks fill."""
        self.num_queries = 0
        """Tokens of admitted requests, since the start."""
        self.num_hits = 0
        """Tokens that did not have to be computed, since the start."""

    def may_hit(self, request: Request) -> bool:
        """Log-probabilities of the prompt need every position computed."""
        return self._is_enabled and request.prompt_logprobs is None

    def begin_step(self) -> None:
        self._in_progress.clear()

    def note_query(self, request: Request) -> None:
        if self.may_hit(request):
            self.num_queries += len(request.token_ids)

    def _limit(self, request: Request) -> int:
        """Blocks that may be hit: the last token is always computed, to sample the next."""
        return (len(request.token_ids) - 1) // self._block_size

    def num_blocks_to_allocate(self, request: Request) -> int:
        """Free blocks that all known tokens of a waiting request would take now.

        Hits that nobody uses count, as they are free until they are taken.
        """
        needed = -(-len(request.token_ids) // self._block_size)
        if self.may_hit(request):
            for index in range(self._limit(request)):
                block = self._pool.lookup(request.digest(index))
                if block is None:
                    break
                needed -= self._pool.is_in_use(block)
        return needed

    def take_hits(self, request: Request) -> bool:
        """Append cached blocks to a request that stands at a block boundary.

        Returns True when the block after them is being computed by another request in this very
        step, so that it is better to wait.
        """
        size = self._block_size
        if request.num_computed % size or not self.may_hit(request):
            return False
        for index in range(request.num_computed // size, self._limit(request)):
            digest = request.digest(index)
            block = self._pool.lookup(digest)
            if block is None:
                return digest in self._in_progress
            self._pool.share(block)
            request.block_ids.append(block)
            request.num_computed += size
            request.next_full += size
            self.num_hits += size
            if request.first_token_time is None and not request.num_preemptions:
                request.num_cached_tokens += size
        return False

    def announce(self, request: Request, end: int) -> None:
        """Let requests with the same tokens know that this one computes up to `end` now."""
        if self._is_enabled:
            size = self._block_size
            last = min(-(-end // size), len(request.token_ids) // size)
            for index in range(request.num_computed // size, last):
                self._in_progress.add(request.digest(index))

    def insert_full_blocks(self, request: Request) -> None:
        """Offer the blocks that have become full since the last call."""
        size = self._block_size
        for index in range(request.next_full // size - 1, request.num_computed // size):
            if self._is_enabled:
                self._pool.insert(request.block_ids[index], request.digest(index))
            request.next_full += size
