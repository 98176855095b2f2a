"""CUDA backend on torch's own variable-length flash attention over a paged cache.

Not yet run on hardware: its logic is tested on the CPU with a stand-in for the kernel. Whether
torch's build and the GPU at hand have a paged kernel shows when the first call is tried, so that
`unsupported` tries it, next to the reference.
"""

from dataclasses import replace

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch, AttentionOptions, AttentionShape
from headrace.attention.paged import PagedBackend


class VarlenBackend:
    """Keys and values in [num_blocks, block_size, num_kv_heads, head_size] per layer."""

    block_size = 256
    """What FlashAttention 2 demands of a paged cache; FlashAttention 3 takes it too."""

    def __init__(self, shape: AttentionShape) -> None:
        # Here, because this import pulls in torch's compiler front end (a second).
        from torch.nn.attention.varlen import varlen_attn

        self.shape = shape
        self._varlen_attn = varlen_attn
        self.keys: Tensor
        self.values: Tensor

    @staticmethod
    def unsupported(shape: AttentionShape) -> str | None:
        if shape.device.type != "cuda":
            return "needs a CUDA device"
        if shape.dtype not in (torch.float16, torch.bfloat16):
            return f"computes in float16 or bfloat16, not {shape.dtype}"
        if shape.kv_dtype != shape.dtype:
            return f"cannot cache {shape.kv_dtype} while computing in {shape.dtype}"
        if shape.head_size > 256 or shape.head_size % 8:
            return f"takes head sizes up to 256 in steps of 8, not {shape.head_size}"
        return trial(shape)

    def bytes_per_block(self) -> int:
        shape = self.shape
        elements = shape.num_layers * self.block_size * shape.num_kv_heads * shape.head_size
        return 2 * elements * shape.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        shape = self.shape
        sizes = (shape.num_layers, num_blocks, self.block_size, shape.num_kv_heads, shape.head_size)
        self.keys = torch.zeros(sizes, dtype=shape.kv_dtype, device=shape.device)
        self.values = torch.zeros_like(self.keys)

    def forward(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        batch: AttentionBatch,
        options: AttentionOptions,
    ) -> Tensor:
        assert options.soft_cap is None, "the kernel has no soft cap"
        keys, values = self.keys[layer], self.values[layer]
        keys.flatten(0, 1).index_copy_(0, batch.slot_mapping, key)
        values.flatten(0, 1).index_copy_(0, batch.slot_mapping, value)
        # The kernel counts the keys to the left of the query, the query itself not included.
        left = -1 if options.window is None else options.window - 1
        output = self._varlen_attn(
            query,
            keys,
            values,
            batch.query_start,
            None,
            batch.max_query_len,
            batch.max_context_len,
            scale=options.scale,
            window_size=(left, 0),
            enable_gqa=self.shape.num_heads != self.shape.num_kv_heads,
            seqused_k=batch.context_lens,
            block_table=batch.block_table,
        )
        assert isinstance(output, Tensor)
        return output.flatten(1)


def trial(shape: AttentionShape) -> str | None:
    """Attend over two small prompts here and in the reference; what went wrong, or None."""
    shape = replace(shape, num_layers=1)
    lengths = torch.tensor([5, 300], dtype=torch.int32, device=shape.device)
    generator = torch.Generator(shape.device).manual_seed(0)
    query, key, value = (
        torch.randn(
            305, heads, shape.head_size,
            dtype=shape.dtype, device=shape.device, generator=generator,
        )
        for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
    )  # fmt: skip
    options = AttentionOptions(scale=shape.head_size**-0.5)
    outputs = []
    for backend in (VarlenBackend(shape), PagedBackend(shape)):
        batch = prompt_batch(lengths, backend.block_size)
        backend.allocate(batch.block_table.numel())
        try:
            outputs.append(backend.forward(0, query, key, value, batch, options))
        except RuntimeError as error:
            return f"its kernel failed: {error}"
    difference = (outputs[0] - outputs[1]).abs().max().item()
    return None if difference < 0.05 else f"its kernel differs from the reference by {difference}"


def prompt_batch(lengths: Tensor, block_size: int) -> AttentionBatch:
    """Whole prompts of `lengths` [S] int32 in an empty cache, blocks in order."""
    longest = int(lengths.max())
    blocks = -(-longest // block_size)
    table = torch.arange(len(lengths) * blocks, dtype=torch.int32, device=lengths.device)
    start = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    positions = torch.cat([torch.arange(n, device=lengths.device) for n in lengths.tolist()])
    sequence = torch.repeat_interleave(lengths.long())
    return AttentionBatch(
        positions=positions.int(),
        slot_mapping=sequence * blocks * block_size + positions,
        query_start=start,
        context_lens=lengths,
        block_table=table.view(-1, blocks),
        max_query_len=longest,
        max_context_len=longest,
    )
