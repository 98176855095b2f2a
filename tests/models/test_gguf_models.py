"""Models in GGUF files against the transformers models they were written from."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from tests.models.checkpoints import make_checkpoint
from tests.models.driver import drive
from tests.models.gguf_files import ARCHITECTURES, write_gguf

TYPES = [GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_1")]


@pytest.mark.parametrize("type", TYPES, ids=lambda type: type.name)
@pytest.mark.parametrize(
    "architecture, case",
    [
        *((architecture, "plain") for architecture in ARCHITECTURES),
        ("LlamaForCausalLM", "tied"),
        ("LlamaForCausalLM", "llama3-rope"),
        ("LlamaForCausalLM", {"attention_bias": True}),
        ("Qwen3ForCausalLM", {"attention_bias": True}),
    ],
    ids=str,
)
def test_logits_are_those_of_the_source(
    tmp_path: Path, architecture: str, case: str | dict[str, bool], type: GGMLQuantizationType
) -> None:
    model = make_checkpoint(tmp_path, architecture, case)
    write_gguf(tmp_path / "model.gguf", model, type)
    tokens = torch.randint(199, (50,), generator=torch.Generator().manual_seed(1))
    driver = drive(tmp_path / "model.gguf")
    (logits,) = driver.step([(driver.start(tokens.tolist()), 50)])
    with torch.inference_mode():
        expected = model(tokens[None]).logits[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-4)
