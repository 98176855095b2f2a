"""Against transformers' warpers, in candidates that are all of the vocabulary or its head."""

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from headrace.kernels.sampling.choice import whole_entropies
from headrace.kernels.sampling.ranking import leading
from headrace.kernels.sampling.truncation import Truncation, row_sum, truncated_weights

VOCAB_SIZE = 2000
CASES: list[tuple[int, float, float, float]] = [
    (1, 1.0, 1.0, 0.0),
    (5, 1.0, 1.0, 0.0),
    (0, 0.9, 1.0, 0.0),
    (0, 0.01, 1.0, 0.0),
    (0, 0.99, 1.0, 0.0),
    (50, 0.7, 1.0, 0.0),
    (0, 1.0, 0.95, 0.0),
    (0, 1.0, 0.2, 0.0),
    (40, 1.0, 0.6, 0.0),
    (0, 0.8, 0.5, 0.0),
    (30, 0.95, 0.9, 0.1),
    (100, 1.0, 1.0, 0.02),
    (0, 1.0, 0.3, 0.5),
]


def truncation_of(cases: list[tuple[int, float, float, float]]) -> Truncation:
    top_k, top_p, typical_p, min_p = (
        torch.tensor(values)[:, None] for values in zip(*cases, strict=True)
    )
    return Truncation(top_k, top_p, typical_p, min_p)


def warped(scores: Tensor, case: tuple[int, float, float, float]) -> Tensor:
    top_k, top_p, typical_p, min_p = case
    warpers = LogitsProcessorList()
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if typical_p < 1:
        warpers.append(TypicalLogitsWarper(typical_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    return warpers(torch.zeros(len(scores), 1, dtype=torch.int64), scores)


def kept_ids(scores: Tensor, truncation: Truncation, count: int) -> tuple[list[set[int]], Tensor]:
    probabilities = scores.softmax(dim=1)
    candidates, ids = leading(scores, count)
    weights, done = truncated_weights(
        candidates,
        probabilities.gather(1, ids),
        truncation,
        whole_entropies(scores, probabilities, truncation),
    )
    return [set(row[w > 0].tolist()) for row, w in zip(ids, weights, strict=True)], done


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
def test_kept_tokens_are_those_of_transformers(spread: float) -> None:
    logits = torch.randn(len(CASES), VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    scores = logits * spread
    scores -= scores.amax(dim=1, keepdim=True)
    kept, _ = kept_ids(scores, truncation_of(CASES), VOCAB_SIZE)
    for row, case in enumerate(CASES):
        expected = warped(scores[row : row + 1], case)[0].isfinite().nonzero()[:, 0].tolist()
        assert kept[row] == set(expected), case


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("count", [16, 128, 1024])
def test_rows_done_with_few_candidates_keep_what_all_would(spread: float, count: int) -> None:
    logits = torch.randn(len(CASES), VOCAB_SIZE, generator=torch.Generator().manual_seed(2))
    scores = logits * spread
    scores -= scores.amax(dim=1, keepdim=True)
    truncation = truncation_of(CASES)
    kept_of_all, _ = kept_ids(scores, truncation, VOCAB_SIZE)
    kept, done = kept_ids(scores, truncation, count)
    assert done[0], "top_k = 1 never needs more"
    assert spread < 6 or count < 1024 or done.all(), "peaked rows are done early"
    for row in done.nonzero()[:, 0].tolist():
        assert kept[row] == kept_of_all[row], CASES[row]


def test_sums_of_a_row_do_not_depend_on_the_others() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    values = torch.rand(5, 100_000, generator=torch.Generator().manual_seed(3))
    together = row_sum(values)
    alone = torch.cat([row_sum(row) for row in values.split(1)])
    torch.set_num_threads(threads)
    assert torch.equal(together, alone)
