"""The fake must notice what the property tests rely on it to notice."""

from typing import Any

import pytest

from headrace.engine.fake import FakeExecutor
from headrace.types import RowStart, StepPlan
from tests.engine.oracle import expected, make_add

ADD = make_add(1, [5, 6, 7, 8, 9], max_tokens=2, num_top_logprobs=3)
OUTPUT = expected(ADD, 1000)[0]


def plan(**fields: Any) -> StepPlan:
    start = RowStart(row=0, params=ADD.params, token_ids=ADD.prompt_ids, num_prompt_tokens=5)
    values: dict[str, Any] = {
        "ended": [],
        "started": [start],
        "rows": [0],
        "starts": [0],
        "counts": [5],
        "token_ids": ADD.prompt_ids,
        "new_blocks": [[2, 0]],
        "num_samples": [1],
    }
    return StepPlan(**{**values, **fields})


def decode(**fields: Any) -> StepPlan:
    values = {"started": [], "starts": [5], "counts": [1], "token_ids": OUTPUT[:1]}
    return plan(**{**values, "new_blocks": [[]], **fields})


def test_tokens_are_those_of_the_oracle() -> None:
    executor = FakeExecutor(num_blocks=4, block_size=3)
    (first,) = executor.execute(plan()).rows
    (second,) = executor.execute(decode()).rows
    assert first.token_ids + second.token_ids == OUTPUT
    assert first.top_logprobs is not None
    (top,) = first.top_logprobs
    assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)


@pytest.mark.parametrize("fields", [{"starts": [4]}, {"token_ids": [OUTPUT[0] + 1]}])
def test_a_wrong_start_or_token_changes_what_follows(fields: dict[str, Any]) -> None:
    executor = FakeExecutor(num_blocks=4, block_size=3)
    executor.execute(plan())
    assert executor.execute(decode(**fields)).rows[0].token_ids != OUTPUT[1:]


def test_an_overwritten_block_changes_what_follows() -> None:
    executor = FakeExecutor(num_blocks=4, block_size=3)
    executor.execute(plan())
    other = RowStart(row=1, params=ADD.params, token_ids=[1, 2, 3], num_prompt_tokens=3)
    executor.execute(
        plan(started=[other], rows=[1], counts=[3], token_ids=[1, 2, 3], new_blocks=[[2]])
    )
    assert executor.execute(decode()).rows[0].token_ids != OUTPUT[1:]


def test_reading_what_was_never_written_is_an_error() -> None:
    executor = FakeExecutor(num_blocks=4, block_size=3)
    with pytest.raises(AssertionError, match="never written"):
        executor.execute(plan(starts=[3], counts=[2], token_ids=[8, 9]))
