"""The twins of `kernels.ops.sampling`: what `kernels.sampling` has in plain torch."""

from headrace.kernels.ops import Argmax, Sample, TopLogprobs
from headrace.kernels.sampling.choice import choose
from headrace.kernels.sampling.ranking import leading
from headrace.kernels.sampling.truncation import row_sum
from headrace.kernels.twins.values import check_range


def argmax(op: Argmax, count: int) -> None:
    op.out[:count] = op.x[:count].argmax(-1)


def sample(op: Sample, count: int) -> None:
    op.token_ids[:count], op.largest[:count] = choose(op.logits[:count], op.draws[:count])


def top_logprobs(op: TopLogprobs, count: int) -> None:
    index = op.index[:count]
    check_range(index, len(op.logits), "a row index is outside the logits")
    values = op.logits.index_select(0, index)
    largest = values.amax(1, keepdim=True)
    op.normalizers[:count] = (largest + row_sum((values - largest).exp()).log())[:, 0]
    if num_leading := op.token_ids.shape[1]:
        leading_values, op.token_ids[:count] = leading(values, num_leading)
        op.logprobs[:count] = leading_values - op.normalizers[:count, None]
