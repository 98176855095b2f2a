"""Whole models in every format against transformers' model of the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.driver import ENGINES, drive_kernels
from tests.quantization.checkpoints import write_quantized
from tests.quantization.formats import FORMATS

PROMPT = list(range(3, 60))


@pytest.fixture(scope="module", params=FORMATS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Path, torch.Tensor]:
    """A folder, and transformers' logits of PROMPT."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write_quantized(folder, FORMATS[request.param])
    with torch.inference_mode():
        return folder, model(torch.tensor([PROMPT])).logits[0]


def logits_of(driver: Any) -> torch.Tensor:
    sequence = driver.start(PROMPT)
    (logits,) = driver.step([(sequence, len(PROMPT))])
    return logits


def error(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((logits - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("engine", ENGINES)
def test_exact_logits(checkpoint: tuple[Path, torch.Tensor], engine: str) -> None:
    folder, wanted = checkpoint
    # The kernels keep scales, and minima instead of zero points, in float16.
    limit = 1e-5 if engine == "torch" else 3e-3
    assert error(logits_of(ENGINES[engine](folder)), wanted) < limit


def test_int8_activations(checkpoint: tuple[Path, torch.Tensor]) -> None:
    folder, wanted = checkpoint
    assert error(logits_of(drive_kernels(folder, exact_activations=False)), wanted) < 0.05
