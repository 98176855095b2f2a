"""Which rows of a step compute tokens of prompts, for models that compute those in an arithmetic of
their own: they come last.

What counts is where a token stands in its own request, never what else is in the step: a generated
token that is computed again after a preemption or a crash is a generated token. No row of a plan
has tokens of both kinds (`types.StepPlan`).
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from headrace.types import StepOutput, StepPlan


class PromptRows:
    """Knows how long the prompt of each executor row is."""

    def __init__(self, max_rows: int) -> None:
        self._num_prompt_tokens = np.zeros(max_rows, np.int64)

    def run_last(self, plan: StepPlan, run: Callable[[StepPlan, int], StepOutput]) -> StepOutput:
        """`run` the plan with the rows that compute prompt tokens behind the others, telling it how
        many these are; its output comes back in the plan's order."""
        for start in plan.started:
            self._num_prompt_tokens[start.row] = start.num_prompt_tokens
        is_prompt = np.array(plan.starts) < self._num_prompt_tokens[plan.rows]
        num_prompt_rows = int(is_prompt.sum())
        if is_prompt[len(is_prompt) - num_prompt_rows :].all():
            return run(plan, num_prompt_rows)
        order = is_prompt.argsort(kind="stable").tolist()
        output = run(_reordered(plan, order), num_prompt_rows)
        for index, row in zip(order, list(output.rows), strict=True):
            output.rows[index] = row
        return output


def _reordered(plan: StepPlan, order: Sequence[int]) -> StepPlan:
    """The plan with `order[i]` of its rows in place i."""
    ends = np.cumsum(plan.counts).tolist()
    spans = [plan.token_ids[end - n : end] for end, n in zip(ends, plan.counts, strict=True)]
    place = {index: i for i, index in enumerate(order)}
    return msgspec.structs.replace(
        plan,
        rows=[plan.rows[i] for i in order],
        starts=[plan.starts[i] for i in order],
        counts=[plan.counts[i] for i in order],
        token_ids=[token for i in order for token in spans[i]],
        new_blocks=[plan.new_blocks[i] for i in order],
        num_samples=[plan.num_samples[i] for i in order],
        masks={place[index]: mask for index, mask in plan.masks.items()},
        num_drafts={place[index]: count for index, count in plan.num_drafts.items()},
    )
