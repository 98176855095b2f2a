"""One token out of each row of scores: greedy, or a race whose noise is counter-based.

Scores are logits after penalties, shifted so that the best is 0, and divided by the temperature.
Each candidate's weight exp(score) is divided by its own exponential number and the largest quotient
wins: a draw from the softmax (the Gumbel-max trick without the outer logarithm). Every operation
treats rows alone, element by element or in one fixed order, so on the CPU a row's token is bitwise
the same in any batch.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.kernels.sampling.random import DrawKeys, draw_keys, exponentials
from headrace.kernels.sampling.ranking import leading
from headrace.kernels.sampling.truncation import Truncation, cut_below, entropy, truncated_weights
from headrace.kernels.tensors import Draws

CANDIDATE_STAGES = (128, 2048)
"""Candidates looked at first; rows that need more go on to the next stage, then to all V."""
ELEMENTS_PER_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Logits drawn from at once: on the CPU what stays in cache, elsewhere a bound on memory."""


def choose(logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Token ids [R] int64 of logits [R, V] float32, and the largest logit of each row.

    A row with a NaN has NaN as its largest; its token means nothing.
    """
    largest, token_ids = best(logits)
    is_sampled = draws["temperature"] > 0
    if not is_sampled.any():
        return token_ids, largest
    keys = draw_keys(draws["seed"], draws["position"], logits.device)
    is_truncated = (draws["top_k"] > 0) | (draws["top_p"] < 1) | (draws["typical_p"] < 1)
    for is_chosen, choose_rows in (
        (is_sampled & ~is_truncated, choose_from_all),
        (is_sampled & is_truncated, choose_from_truncated),
    ):
        for index in _blocks(np.flatnonzero(is_chosen), logits):
            rows = torch.from_numpy(index).to(logits.device)
            scores = logits.index_select(0, rows).sub_(largest[rows, None])
            scores.div_(_column(draws, "temperature", index, logits.device))
            names = ("top_k", "top_p", "typical_p", "min_p")
            truncation = Truncation(*(_column(draws, n, index, logits.device) for n in names))
            token_ids[rows] = choose_rows(scores, truncation, keys.select(rows))
    return token_ids, largest


def _column(draws: Draws, name: str, index: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """[len(index), 1]."""
    return torch.from_numpy(draws[name][index, None]).to(device)


def _blocks(index: npt.NDArray[np.int64], logits: Tensor) -> Iterator[npt.NDArray[np.int64]]:
    """Cut an index of rows so that intermediate results stay small."""
    step = max(1, ELEMENTS_PER_BLOCK[logits.device.type] // logits.shape[1])
    return (index[start : start + step] for start in range(0, len(index), step))


def best(values: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value and its lowest id per row of [R, V]; a row with a NaN has NaN as its value."""
    if values.is_cpu:
        # numpy's search is vectorised, torch's is not: 7 instead of 24 us for a row of 49152.
        ids = torch.from_numpy(values.numpy().argmax(axis=1))
        return values.gather(1, ids[:, None])[:, 0], ids
    maximum = values.max(dim=1)
    return maximum.values, maximum.indices


def race(weights: Tensor, token_ids: Tensor, keys: DrawKeys) -> Tensor:
    """The winner's index in each row of weights [R, K]; token_ids [K] or [R, K] int32."""
    return best(weights / exponentials(keys, token_ids))[1]


def choose_from_all(scores: Tensor, truncation: Truncation, keys: DrawKeys) -> Tensor:
    """Draw one id per row of scores [R, V], cut by nothing but min_p."""
    weights = scores.exp()
    if truncation.min_p.any():
        weights = cut_below(weights, truncation.min_p)
    token_ids = torch.arange(scores.shape[1], dtype=torch.int32, device=scores.device)
    return race(weights, token_ids, keys)


def choose_from_truncated(scores: Tensor, truncation: Truncation, keys: DrawKeys) -> Tensor:
    """Draw one id per row of scores [R, V] that top_k, top_p or typical_p cut.

    Only the leading candidates are sorted and drawn from; a row is done when what it keeps
    provably lies among them, so the result does not depend on the stages.
    """
    num_rows, vocab_size = scores.shape
    probabilities = scores.softmax(dim=1)
    entropies = whole_entropies(scores, probabilities, truncation)
    chosen = torch.empty(num_rows, dtype=torch.int64, device=scores.device)
    pending = torch.arange(num_rows, device=scores.device)
    for count in (*CANDIDATE_STAGES, vocab_size):
        leading_scores, ids = leading(scores.index_select(0, pending), count)
        weights, done = truncated_weights(
            leading_scores,
            probabilities[pending[:, None], ids],
            truncation.select(pending),
            entropies[pending],
        )
        winner = race(weights, ids.to(torch.int32), keys.select(pending))
        # What is not done yet is overwritten by the next stage.
        chosen[pending] = ids.gather(1, winner[:, None])[:, 0]
        pending = pending[~done]
        if not len(pending):
            break
    return chosen


def whole_entropies(scores: Tensor, probabilities: Tensor, truncation: Truncation) -> Tensor:
    """[R, 1], computed only where typical_p acts on the whole distribution."""
    entropies = torch.zeros(len(scores), 1, device=scores.device)
    rows = ((truncation.typical_p < 1) & ~truncation.is_prefix)[:, 0].nonzero()[:, 0]
    if len(rows):
        surprise = -scores[rows] - probabilities[rows].amax(dim=1, keepdim=True).log()
        entropies[rows] = entropy(probabilities[rows], surprise)
    return entropies
