"""How large the KV cache is: as asked, or a share of what the process may use.

Pure arithmetic; the numbers come from `runner.device` and the model.
"""

from dataclasses import dataclass

from headrace.errors import StartupError

SHARE_OF_CPU_MEMORY = 0.5
"""Of what is available after the weights; the rest is for activations and the machine."""


@dataclass(frozen=True, kw_only=True)
class CacheRequest:
    """What decides the size of the cache."""

    block_size: int
    bytes_per_block: int
    available: int
    """Bytes that the process may still allocate."""
    share: float
    """Of `available`, taken when nothing is asked for."""
    cache_memory: int | None
    """--kv-cache-memory."""
    cache_tokens: int | None
    """--max-batch-total-tokens."""
    max_total_tokens: int | None
    """--max-total-tokens."""
    max_position_embeddings: int
    max_num_seqs: int


@dataclass(frozen=True)
class CacheSize:
    """The answer."""

    num_blocks: int
    max_total_tokens: int
    """That one request may have."""


def size_cache(request: CacheRequest) -> CacheSize:
    """Decide on the number of blocks and on the longest request.

    Raises StartupError, naming the flags to change, when memory does not suffice for what was
    asked, or not for one request of --max-total-tokens.
    """
    longest = request.max_total_tokens or request.max_position_embeddings
    if longest > request.max_position_embeddings:
        raise StartupError(
            f"--max-total-tokens {longest} is more than the {request.max_position_embeddings} "
            "positions of the model: lower it"
        )
    # More than this could never be in use.
    useful = request.max_num_seqs * -(-longest // request.block_size)
    num_blocks = min(_affordable_blocks(request), useful)
    num_tokens = num_blocks * request.block_size
    if num_blocks == 0 or num_tokens < (request.max_total_tokens or 0):
        raise StartupError(
            f"the KV cache has room for {num_tokens} tokens"
            + (f", one request may have {longest} tokens" if request.max_total_tokens else "")
            + f" ({request.bytes_per_block / request.block_size:.0f} bytes per token, "
            f"{_mebibytes(request.available)} available): lower --max-total-tokens, raise "
            "--kv-cache-memory or --max-batch-total-tokens, choose a smaller --kv-cache-dtype, or "
            "give the process more memory"
        )
    return CacheSize(num_blocks, min(longest, num_tokens))


def _affordable_blocks(request: CacheRequest) -> int:
    if request.cache_memory is not None:
        num_blocks = request.cache_memory // request.bytes_per_block
        asked = f"--kv-cache-memory {request.cache_memory}"
    elif request.cache_tokens is not None:
        num_blocks = -(-request.cache_tokens // request.block_size)
        asked = f"--max-batch-total-tokens {request.cache_tokens}"
    else:
        return int(request.available * request.share) // request.bytes_per_block
    needed = num_blocks * request.bytes_per_block
    if needed > request.available:
        raise StartupError(
            f"{asked} needs {_mebibytes(needed)} for the KV cache, "
            f"{_mebibytes(request.available)} are available: lower it"
        )
    return num_blocks


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
