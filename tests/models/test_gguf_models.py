"""Models in GGUF files against the transformers models they were written from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType

from headrace.kernels import load as load_kernels
from tests.models.checkpoints import CASES, EXPERTS, make_checkpoint
from tests.models.driver import ENGINES, Driver, Replayed, drive
from tests.models.gguf_files import write_gguf

QWEN = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")
GEMMA3: dict[str, Any] = {
    **CASES["Gemma3ForCausalLM"]["window"],
    "num_hidden_layers": 7,
    "query_pre_attn_scalar": 16,
    "layer_types": None,
}

TYPES = [GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_1")]


@pytest.mark.parametrize("type", TYPES, ids=lambda type: type.name)
@pytest.mark.parametrize(
    "architecture, case",
    [
        *((architecture, "plain") for architecture in ("LlamaForCausalLM", *QWEN)),
        ("LlamaForCausalLM", "tied"),
        ("LlamaForCausalLM", "llama3-rope"),
        ("LlamaForCausalLM", {"attention_bias": True}),
        ("Qwen3ForCausalLM", {"attention_bias": True}),
        ("GemmaForCausalLM", "plain"),
        ("Gemma2ForCausalLM", {"sliding_window": 7, "query_pre_attn_scalar": 16}),
        ("Gemma3ForCausalLM", GEMMA3),
        ("Phi3ForCausalLM", "partial"),
        ("Phi3ForCausalLM", "long"),
        ("MixtralForCausalLM", {"num_local_experts": 5, "sliding_window": None}),
        ("Qwen2MoeForCausalLM", "plain"),
        (
            "Qwen2MoeForCausalLM",
            EXPERTS | {"shared_expert_intermediate_size": 64, "qkv_bias": False},
        ),
        ("Qwen3MoeForCausalLM", "plain"),
    ],
    ids=str,
)
def test_logits_are_those_of_the_source(
    tmp_path: Path, architecture: str, case: str | dict[str, Any], type: GGMLQuantizationType
) -> None:
    model = make_checkpoint(tmp_path, architecture, case)
    write_gguf(tmp_path / "model.gguf", model, type)
    check_logits(tmp_path / "model.gguf", model)


@pytest.mark.parametrize("case", [{}, {"attention_bias": True}], ids=str)
def test_layers_that_share_an_input_may_have_different_types(
    tmp_path: Path, case: dict[str, Any]
) -> None:
    others = {"v_proj": "Q8_0", "down_proj": "Q5_1", "gate_proj": "F16", "o_proj": "F32"}
    model = make_checkpoint(tmp_path, "LlamaForCausalLM", case)
    kinds = {layer: GGMLQuantizationType[name] for layer, name in others.items()}
    write_gguf(tmp_path / "model.gguf", model, GGMLQuantizationType.Q4_0, kinds)
    check_logits(tmp_path / "model.gguf", model)


def check_logits(path: Path, model: Any) -> None:
    tokens = torch.randint(199, (50,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(tokens[None]).logits[0]
    for engine in ENGINES.values():
        driver = engine(path)
        (logits,) = driver.step([(driver.start(tokens.tolist()), 50)])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("has_single_experts", [False, True])
@pytest.mark.parametrize("others", [{}, {"gate_proj": GGMLQuantizationType.Q8_0}], ids=str)
def test_experts_stay_quantized_however_they_are_stored(
    tmp_path: Path, others: dict[str, GGMLQuantizationType], has_single_experts: bool
) -> None:
    model = make_checkpoint(tmp_path, "MixtralForCausalLM", "plain")
    path = tmp_path / "model.gguf"
    write_gguf(
        path, model, GGMLQuantizationType.Q4_1, others, has_single_experts=has_single_experts
    )
    tokens = list(range(40))
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0]
    driver = drive(path, kernels=load_kernels(), exact_activations=True)
    assert driver.model.weight_bytes < 0.2 * sum(p.nbytes for p in model.parameters())
    (logits,) = Driver(Replayed(driver.model), driver.backend).step(
        [(driver.start(tokens), len(tokens))]
    )
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-4)
