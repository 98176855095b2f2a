"""The twins of `kernels.ops.sampling`: what `kernels.sampling` has in plain torch."""

import torch

from headrace.kernels.ops import Allow, Argmax, Sample, TopLogprobs
from headrace.kernels.sampling.choice import choose
from headrace.kernels.sampling.ranking import leading
from headrace.kernels.sampling.truncation import row_sum
from headrace.kernels.twins.values import check_range

OUTSIDE = "a row index is outside the logits"


def argmax(op: Argmax, count: int) -> None:
    op.out[:count] = op.x[:count].argmax(-1)


def allow(op: Allow, count: int) -> None:
    index = op.index[:count]
    check_range(index, len(op.logits), OUTSIDE)
    shifts = torch.arange(32, dtype=torch.int32, device=op.words.device)
    bits = (op.words[:count, :, None] >> shifts & 1).flatten(1)[:, : op.logits.shape[1]]
    op.logits[index] = op.logits[index].masked_fill_(bits == 0, -torch.inf)


def sample(op: Sample, count: int) -> None:
    op.token_ids[:count], op.largest[:count] = choose(op.logits[:count], op.draws[:count])


def top_logprobs(op: TopLogprobs, count: int) -> None:
    index = op.index[:count]
    check_range(index, len(op.logits), OUTSIDE)
    values = op.logits.index_select(0, index)
    largest = values.amax(1, keepdim=True)
    op.normalizers[:count] = (largest + row_sum((values - largest).exp()).log())[:, 0]
    if num_leading := op.token_ids.shape[1]:
        leading_values, op.token_ids[:count] = leading(values, num_leading)
        op.logprobs[:count] = leading_values - op.normalizers[:count, None]
