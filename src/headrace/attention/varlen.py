"""CUDA backend on torch's own variable-length flash attention over a paged cache.

Not yet run on hardware: its logic is tested on the CPU with a stand-in for the kernel. Whether
torch's build and the GPU at hand have a paged kernel shows when the first call is tried, so that
`unsupported` tries it, next to the reference.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import activate_flash_attention_impl, current_flash_attention_impl

from headrace.attention.base import AttentionBatch, AttentionOptions, AttentionShape, LayerShape
from headrace.attention.paged import PagedBackend
from headrace.kernels.memory import zeroed


class VarlenBackend:
    """Keys and values in [num_blocks, block_size, num_kv_heads, head_size] per layer."""

    block_size = 256
    """What FlashAttention 2 demands of a paged cache; FlashAttention 3 takes it too."""

    def __init__(self, shape: AttentionShape) -> None:
        self.shape = shape
        self._varlen_attn = kernel(shape.device)
        self.keys: list[Tensor]
        self.values: list[Tensor]

    @staticmethod
    def unsupported(shape: AttentionShape) -> str | None:
        if shape.device.type != "cuda":
            return "needs a CUDA device"
        if shape.dtype not in (torch.float16, torch.bfloat16):
            return f"computes in float16 or bfloat16, not {shape.dtype}"
        if shape.kv_dtype != shape.dtype:
            return f"cannot cache {shape.kv_dtype} while computing in {shape.dtype}"
        for size in sorted({layer.head_size for layer in shape.layers}):
            if size > 256 or size % 8:
                return f"takes head sizes up to 256 in steps of 8, not {size}"
        if shape.has_soft_cap or shape.has_alibi:
            return "its kernel has neither soft cap nor ALiBi"
        if shape.has_sinks or shape.has_chunks or any(layer.value_size for layer in shape.layers):
            return "its kernel has neither sinks, chunks nor values within the keys"
        return next(filter(None, (trial(shape, layer) for layer in set(shape.layers))), None)

    def bytes_per_block(self) -> int:
        elements = sum(layer.cached_elements for layer in self.shape.layers)
        return self.block_size * elements * self.shape.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        shape = self.shape
        sizes = [
            (num_blocks, self.block_size, layer.num_kv_heads, layer.head_size)
            for layer in shape.layers
        ]
        self.keys, self.values = (
            [zeroed(size, shape.kv_dtype, shape.device) for size in sizes] for _ in range(2)
        )

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
        keys, values, sizes = self.keys[layer], self.values[layer], self.shape.layers[layer]
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
            enable_gqa=sizes.num_heads != sizes.num_kv_heads,
            seqused_k=batch.context_lens,
            block_table=batch.block_table,
        )
        assert isinstance(output, Tensor)
        return output.flatten(1)


def kernel(device: torch.device) -> Callable[..., Any]:
    """torch's varlen_attn, on FlashAttention 3 where GPU and installed packages have it."""
    # Here, because this import pulls in torch's compiler front end (a second).
    from torch.nn.attention.varlen import varlen_attn

    if device.type == "cuda" and find_spec("flash_attn_interface"):
        is_hopper = torch.cuda.get_device_capability(device)[0] == 9
        if is_hopper and current_flash_attention_impl() != "FA3":
            activate_flash_attention_impl("FA3")
    return varlen_attn


def trial(shape: AttentionShape, layer: LayerShape) -> str | None:
    """Attend in a layer over two prompts, then go on with a chunk and a decode, here and in the
    reference.

    Returns what went wrong, None if nothing did.
    """
    shape = replace(shape, layers=(layer,))
    generator = torch.Generator(shape.device).manual_seed(0)
    steps = [([5, 300], [5, 300]), ([6, 320], [1, 20])]
    inputs = [
        [
            torch.randn(
                sum(counts), heads, layer.head_size,
                dtype=shape.dtype, device=shape.device, generator=generator,
            )
            for heads in (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads)
        ]
        for _, counts in steps
    ]  # fmt: skip
    outputs = []
    for backend in (VarlenBackend(shape), PagedBackend(shape)):
        backend.allocate(2 * -(-320 // backend.block_size))
        try:
            for (contexts, counts), (query, key, value) in zip(steps, inputs, strict=True):
                batch = trial_batch(contexts, counts, backend.block_size, shape.device)
                options = AttentionOptions(scale=layer.head_size**-0.5)
                outputs.append(backend.forward(0, query, key, value, batch, options))
        except RuntimeError as error:
            return f"its kernel failed: {error}"
    difference = (torch.cat(outputs[:2]) - torch.cat(outputs[2:])).abs().max().item()
    return None if difference < 0.05 else f"its kernel differs from the reference by {difference}"


def trial_batch(
    contexts: list[int], counts: list[int], block_size: int, device: torch.device
) -> AttentionBatch:
    """The last `counts` tokens of sequences of `contexts` tokens, their blocks in order."""
    blocks = -(-max(contexts) // block_size)
    positions = [range(c - n, c) for c, n in zip(contexts, counts, strict=True)]
    slots = [s * blocks * block_size + p for s, own in enumerate(positions) for p in own]
    starts = [sum(counts[:s]) for s in range(len(counts) + 1)]

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    blocks_in_order = tensor(list(range(len(counts) * blocks)))
    return AttentionBatch(
        positions=tensor([p for own in positions for p in own]),
        slot_mapping=torch.tensor(slots, device=device),
        query_start=tensor(starts),
        context_lens=tensor(contexts),
        block_table=blocks_in_order.view(-1, blocks),
        max_query_len=max(counts),
        max_context_len=max(contexts),
    )
