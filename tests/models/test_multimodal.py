"""The text models inside multimodal checkpoints, against transformers' answers to plain text."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.multimodal import LAYOUTS, TEXT_MODELS, WRAPPERS, text_config
from headrace.models import ARCHITECTURES, spec_of
from tests.models.checkpoints import BASE, CASES, LLAMA4, QWEN3_VL_MOE, make_checkpoint
from tests.models.driver import ENGINES, drive
from tests.models.test_decoder import Reference, assert_close, random_prompts

VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
QWEN_VISION = {
    "depth": 1, "num_heads": 2, "patch_size": 14, "embed_dim": 32, "hidden_size": 64,
    "out_hidden_size": 64, "intermediate_size": 32, "deepstack_visual_indexes": [0],
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
GEMMA3 = CASES["Gemma3ForCausalLM"]["window"] | {"model_type": "gemma3_text"}
TOKENS = {"image_token_id": 300, "video_token_id": 301, "vision_start_token_id": 302}
LLAVA = {"vision_config": VISION | {"model_type": "clip_vision_model"}, "image_token_index": 300}
SIGLIP = {"vision_config": VISION | {"model_type": "siglip_vision_model"}}


def wrapper(text: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"text_config": BASE | text, **other}


TINY: dict[str, dict[str, Any]] = {
    "Gemma3ForConditionalGeneration": wrapper(GEMMA3, **SIGLIP, mm_tokens_per_image=1),
    "Idefics3ForConditionalGeneration": wrapper(
        {"model_type": "llama", "pad_token_id": 0}, vision_config=VISION
    ),
    "InternVLForConditionalGeneration": wrapper(
        {"model_type": "qwen3"},
        vision_config=VISION | {"image_size": [28, 28], "patch_size": [14, 14]},
    ),
    "Llama4ForConditionalGeneration": wrapper(
        LLAMA4 | {"model_type": "llama4_text", "interleave_moe_layer_step": 2},
        vision_config=VISION | {"vision_output_dim": 32, "projector_output_dim": 32},
    ),
    "LlavaForConditionalGeneration": wrapper({"model_type": "llama"}, **LLAVA),
    "LlavaNextForConditionalGeneration": wrapper({"model_type": "mistral"}, **LLAVA),
    "LlavaOnevisionForConditionalGeneration": wrapper({"model_type": "qwen2"}, **SIGLIP),
    "Mistral3ForConditionalGeneration": wrapper(
        {"model_type": "mistral", "sliding_window": None},
        vision_config=VISION | {"model_type": "pixtral", "head_dim": 16},
    ),
    "Qwen2VLForConditionalGeneration": wrapper(
        {"rope_parameters": MROPE}, vision_config=QWEN_VISION, **TOKENS
    ),
    "Qwen2_5_VLForConditionalGeneration": wrapper(
        {"rope_parameters": MROPE}, vision_config=QWEN_VISION | {"fullatt_block_indexes": [0]},
        **TOKENS,
    ),
    "Qwen3VLForConditionalGeneration": wrapper(
        {"rope_parameters": MROPE | {"mrope_interleaved": True}}, vision_config=QWEN_VISION,
        **TOKENS,
    ),
    "Qwen3VLMoeForConditionalGeneration": QWEN3_VL_MOE,
    "SmolVLMForConditionalGeneration": wrapper(
        {"model_type": "llama", "pad_token_id": 0}, vision_config=VISION
    ),
}  # fmt: skip


def check(folder: Path, reference: Reference, engine: str) -> None:
    """Logits of a ragged batch, and greedy tokens."""
    driver = ENGINES[engine](folder)
    prompts = random_prompts(3, 40, 17)
    prompts = [[token % 190 for token in prompt] for prompt in prompts]
    sequences = [driver.start(prompt) for prompt in prompts]
    outputs = driver.step([(s, len(s.tokens)) for s in sequences])
    for prompt, logits in zip(prompts, outputs, strict=True):
        assert_close(logits, reference.logits(prompt))
    assert driver.greedy(prompts, 6) == [reference.greedy(prompt, 6) for prompt in prompts]


def test_every_wrapper_has_a_case() -> None:
    assert set(TINY) == WRAPPERS
    assert {model.architecture for model in TEXT_MODELS.values()} <= set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", TINY)
def test_text_is_answered_as_by_transformers(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = Reference(make_checkpoint(tmp_path, architecture, TINY[architecture]))
    with caplog.at_level(logging.INFO):
        for engine in ENGINES:
            check(tmp_path, reference, engine)
    assert f"{architecture}: its text model is served" in caplog.text


@pytest.mark.parametrize("base, head", [(part.base, part.head) for part in LAYOUTS])
@pytest.mark.parametrize("is_tied", [True, False])
def test_spellings_of_other_years(base: str, head: str, is_tied: bool, tmp_path: Path) -> None:
    changes = TINY["LlavaForConditionalGeneration"] | {"tie_word_embeddings": is_tied}
    model = make_checkpoint(tmp_path, "LlavaForConditionalGeneration", changes)
    text = {
        name.replace("model.language_model.", base): tensor
        for name, tensor in model.state_dict().items()
        if "language_model" in name
    }
    if not is_tied:
        text[f"{head}.weight"] = model.lm_head.weight.detach()
    save_file(
        {name: tensor.contiguous() for name, tensor in text.items()}, tmp_path / "model.safetensors"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path).config["tie_word_embeddings"] is is_tied
    check(tmp_path, Reference(model), "torch")


def test_qwen2_vl_without_a_text_config(tmp_path: Path) -> None:
    """As the first of them are on the hub: the text model's fields are the config's own."""
    model = make_checkpoint(
        tmp_path, "Qwen2VLForConditionalGeneration", TINY["Qwen2VLForConditionalGeneration"]
    )
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("model.language_model.", "model."): t for name, t in tensors.items()}
    renamed = {name.replace("model.visual.", "visual."): t for name, t in renamed.items()}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    text = config.pop("text_config")
    text.pop("rope_parameters")
    flat = text | config | {
        "model_type": "qwen2_vl", "rope_theta": 1e4,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(flat))
    check(tmp_path, Reference(model), "torch")


def test_what_a_text_config_leaves_out_is_its_class_default() -> None:
    """gemma-3-4b-it's config.json, against transformers' reading of it."""
    import transformers

    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }  # fmt: skip
    from headrace.checkpoint.model_config import normalize

    config = text_config({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    spec = spec_of(normalize(config, "config.json", False))
    expected = transformers.Gemma3TextConfig(**text)
    attention = spec.layers[5].attention
    assert (spec.vocab_size, len(spec.layers)) == (expected.vocab_size, 34)
    assert (attention.num_heads, attention.num_kv_heads, attention.head_size) == (8, 4, 256)
    assert attention.scale == expected.query_pre_attn_scalar**-0.5 and spec.head.is_tied
    for layer, kind in zip(spec.layers, expected.layer_types, strict=True):
        rope, parameters = layer.attention.rope, expected.rope_parameters[kind]
        assert rope is not None and rope.theta == parameters["rope_theta"]
        assert rope.factor == parameters.get("factor", 1.0)
        assert layer.attention.window == (1024 if kind == "sliding_attention" else None)


def test_a_text_model_that_is_not_native_stays_transformers_business() -> None:
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": {"model_type": "novel"},
    }
    assert text_config(config) is config
    assert text_config({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}) is not None


def test_quantized_names_are_the_wrappers(tmp_path: Path) -> None:
    """`--quantize` reads the same tensors."""
    model = make_checkpoint(
        tmp_path, "LlavaForConditionalGeneration", TINY["LlavaForConditionalGeneration"]
    )
    (prompt,) = random_prompts(20)
    driver = drive(tmp_path, quantize="eetq")
    (logits,) = driver.step([(driver.start(prompt), 20)])
    expected = Reference(model).logits(prompt)
    assert (logits - expected).norm() / expected.norm() < 0.05
    assert torch.isfinite(logits).all()
