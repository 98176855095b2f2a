import torch

from headrace.runner.masks import step_masks
from headrace.types import StepPlan

CPU = torch.device("cpu")


def plan_of(num_samples: list[int], masks: dict[int, bytes]) -> StepPlan:
    rows = list(range(len(num_samples)))
    return StepPlan(
        ended=[], started=[], rows=rows, starts=rows, counts=num_samples, token_ids=[],
        new_blocks=[], num_samples=num_samples, masks=masks,
    )  # fmt: skip


def test_masks_find_their_positions() -> None:
    words = [number.to_bytes(4, "little") for number in range(1, 5)]
    # Row 1 has no samples in this step, row 2 verifies two drafts.
    plan = plan_of([1, 0, 3, 1], {0: words[0], 2: words[1] + words[2] + words[3]})
    masks = step_masks(plan, CPU)
    assert masks is not None
    assert masks.index.tolist() == [0, 1, 2, 3]
    assert masks.bits.tolist() == [[1], [2], [3], [4]]


def test_without_grammars_there_is_nothing() -> None:
    assert step_masks(plan_of([1, 1], {}), CPU) is None
