"""Against transformers' own watermark, and seen by the paper's detector."""

import numpy as np
import pytest
import torch
from transformers import WatermarkLogitsProcessor

from headrace.runner.watermark import Watermark
from headrace.types import SamplingParams
from tests.runner.rows import TWINS, row_start, sample

VOCAB_SIZE = 500


def of_transformers(gamma: float, delta: float) -> WatermarkLogitsProcessor:
    return WatermarkLogitsProcessor(
        vocab_size=VOCAB_SIZE, device="cpu", greenlist_ratio=gamma, bias=delta, context_width=1
    )


@pytest.mark.parametrize(("gamma", "delta"), [(0.5, 2.0), (0.25, -1.5)])
def test_green_lists_are_transformers(gamma: float, delta: float) -> None:
    logits = torch.randn(6, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    previous_ids = [0, 7, VOCAB_SIZE - 1, 7]
    rows = np.array([5, 0, 2, 3])
    marked = logits.clone()
    Watermark(gamma, delta).add_(marked, rows, previous_ids)
    expected = of_transformers(gamma, delta)(torch.tensor(previous_ids)[:, None], logits[rows])
    assert torch.equal(marked[rows], expected)
    assert torch.equal(marked[[1, 4]], logits[[1, 4]]), "rows that did not ask"


def z_score(token_ids: list[int], gamma: float) -> float:
    """Of the paper's equation 3, over all tokens behind the first."""
    is_green = of_transformers(gamma, 1.0)
    num_green = sum(
        float(is_green(torch.tensor([[previous]]), torch.zeros(1, VOCAB_SIZE))[0, token_id])
        for previous, token_id in zip(token_ids, token_ids[1:], strict=False)
    )
    count = len(token_ids) - 1
    return float((num_green - gamma * count) / np.sqrt(count * gamma * (1 - gamma)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_detector_sees_it(temperature: float) -> None:
    """200 tokens of a model that knows nothing; by chance z is above 4 once in 30,000 times."""
    texts: dict[bool, list[int]] = {}
    for watermark in (False, True):
        params = SamplingParams(
            max_tokens=200, temperature=temperature, seed=4, watermark=watermark
        )
        token_ids = [1]
        for position in range(200):
            logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(position))
            start = row_start(0, params, token_ids)
            token_ids.append(int(sample(TWINS, logits, [start]).token_ids[0]))
        texts[watermark] = token_ids
    assert z_score(texts[True], 0.5) > 6
    assert abs(z_score(texts[False], 0.5)) < 4
