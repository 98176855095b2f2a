"""From the samples of a step to one `RowOutput` per scheduled row."""

from headrace.runner.sample_positions import SamplePositions, num_accepted
from headrace.runner.sampler import Samples
from headrace.types import RowOutput, StepPlan

NOTHING_TO_CHOOSE = (
    "the model's logits hold no token that can be chosen (not a number, or all -inf)"
)


def row_outputs(plan: StepPlan, at: SamplePositions, samples: Samples) -> list[RowOutput]:
    """In the plan's order; rows without samples get an empty output."""
    token_ids, is_valid = samples.token_ids.tolist(), samples.is_valid.tolist()
    outputs = []
    first = 0
    for count in plan.num_samples:
        drafts = at.drafts.get(first + count - 1, [])
        end = first + num_accepted(token_ids[first : first + count], drafts)
        if all(is_valid[first:end]):
            outputs.append(_row_output(token_ids, first, end, samples))
        else:
            outputs.append(RowOutput(token_ids=[], error=NOTHING_TO_CHOOSE))
        first += count
    return outputs


def _row_output(token_ids: list[int], first: int, end: int, samples: Samples) -> RowOutput:
    output = RowOutput(token_ids=token_ids[first:end])
    if first in samples.logprobs and first < end:
        output.logprobs = [samples.logprobs[index] for index in range(first, end)]
        output.top_logprobs = [samples.top_logprobs[index] for index in range(first, end)]
    return output
