"""Proof at start-up that a model computes on the paged cache what it computes by itself."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headrace.attention.varlen import trial_batch
from headrace.errors import StartupError
from headrace.models.transformers.attention import NAME
from headrace.models.transformers.model import TransformersModel

LENGTHS = [13, 9]
STEPS = [([7, 8], [7, 8]), ([13, 9], [6, 1])]
"""Contexts and counts: a prompt in two chunks beside a prompt and its decode."""
NUM_BLOCKS = len(LENGTHS)
LIMITS = {torch.float32: 0.001}
LIMIT = 0.1
"""Error over norm of the logits, by type of arithmetic: well above what rounding costs (float32
0.01 %, 16-bit types 3 %, routing to other experts included), so that little lost state shows."""


@torch.inference_mode()
def check_against_itself(
    model: PreTrainedModel, served: TransformersModel, block_size: int
) -> None:
    """Run two prompts through `served`, which has NUM_BLOCKS blocks for it, and through `model`
    with transformers' eager attention. Raises StartupError if the logits differ."""
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(served.vocab_size, (length,), generator=generator).to(model.device)
        for length in LENGTHS
    ]
    actual = _paged(served, prompts, block_size)
    for paged, plain in zip(actual, _plain(model, prompts), strict=True):
        error = float((paged - plain).norm() / plain.norm())
        if not error <= LIMITS.get(model.dtype, LIMIT):
            raise StartupError(
                f"on the paged KV cache its logits differ from transformers' own by {error:.2%}"
            )


def _plain(model: PreTrainedModel, prompts: list[Tensor]) -> list[Tensor]:
    """Logits [n, V] float32 of each prompt, alone and without a cache."""
    model.set_attn_implementation("eager")
    logits = [
        model(input_ids=prompt.unsqueeze(0), use_cache=False).logits[0].float()
        for prompt in prompts
    ]
    model.set_attn_implementation(NAME)
    return logits


def _paged(served: TransformersModel, prompts: list[Tensor], block_size: int) -> list[Tensor]:
    parts: list[list[Tensor]] = [[] for _ in prompts]
    for contexts, counts in STEPS:
        batch = trial_batch(contexts, counts, block_size, prompts[0].device)
        chunks = [p[c - n : c] for p, c, n in zip(prompts, contexts, counts, strict=True)]
        hidden = served.forward(torch.cat(chunks), batch)
        for part, logits in zip(parts, served.logits(hidden).split(counts), strict=True):
            part.append(logits)
    return [torch.cat(part) for part in parts]
