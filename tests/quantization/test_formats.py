"""Whole models in every format against transformers' model of the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.driver import ALL_ENGINES, drive_kernels, every_engine
from tests.quantization.checkpoints import write_quantized
from tests.quantization.formats import FORMATS, Format

PROMPT = list(range(3, 60))


@pytest.fixture(scope="module", params=FORMATS)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: Any
) -> tuple[Path, Format, torch.Tensor]:
    """A folder, how it is stored, and transformers' logits of PROMPT."""
    folder, form = tmp_path_factory.mktemp(request.param), FORMATS[request.param]
    model = write_quantized(folder, form)
    with torch.inference_mode():
        return folder, form, model(torch.tensor([PROMPT])).logits[0]


def logits_of(driver: Any) -> torch.Tensor:
    sequence = driver.start(PROMPT)
    (logits,) = driver.step([(sequence, len(PROMPT))])
    return logits


def error(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((logits - wanted).norm() / wanted.norm())


@every_engine
def test_exact_logits(checkpoint: tuple[Path, Format, torch.Tensor], engine: str) -> None:
    folder, form, wanted = checkpoint
    limit = form.precision if engine != "kernels" or has_half_scales(form) else 3e-3
    assert error(logits_of(ALL_ENGINES[engine](folder)), wanted) < limit


def has_half_scales(form: Format) -> bool:
    """The kernels keep scales in float16: nothing is rounded where the format does."""
    return form.config["quant_method"] in ("gptq", "awq")


def test_int8_activations(checkpoint: tuple[Path, Format, torch.Tensor]) -> None:
    folder, _, wanted = checkpoint
    assert error(logits_of(drive_kernels(folder, exact_activations=False)), wanted) < 0.05
