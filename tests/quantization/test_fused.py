"""Quantized layers that a family keeps fused, in other orders or under other names."""

from pathlib import Path

import pytest
import torch

from tests.models.driver import ENGINES
from tests.quantization.checkpoints import write_quantized
from tests.quantization.formats import FORMATS
from tests.quantization.test_formats import PROMPT, error, logits_of

FUSED = {
    "Phi3ForCausalLM": {"pad_token_id": 0},
    "GPTNeoXForCausalLM": {"num_key_value_heads": 4},
    "CohereForCausalLM": {},
}
"""Stacked, grouped by head, and with pairs of rows reordered."""


@pytest.mark.parametrize("architecture", FUSED)
@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if not form.skipped])
def test_parts_of_quantized_layers(tmp_path: Path, name: str, architecture: str) -> None:
    form = FORMATS[name]
    model = write_quantized(tmp_path, form, architecture, **FUSED[architecture])
    with torch.inference_mode():
        wanted = model(torch.tensor([PROMPT])).logits[0]
    assert error(logits_of(ENGINES["torch"](tmp_path)), wanted) < form.precision
