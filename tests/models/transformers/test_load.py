"""What is refused, and why, before or after the weights are read; what is kept of memory."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers

from headrace.checkpoint.checkpoint import open_checkpoint, with_rope_scaling
from headrace.errors import CheckpointError, StartupError
from headrace.models.load import LoadOptions, load_model
from tests.models.checkpoints import BASE, make_checkpoint
from tests.models.driver import ENGINES, Driver, drive, drive_kernels
from tests.models.test_decoder import assert_close, random_prompts
from tests.models.transformers.checkpoints import FALLBACK, plain_logits
from tests.models.transformers.example import MODEL, install, make_example

OPTIONS = LoadOptions(dtype=torch.float32, device=torch.device("cpu"), kv_dtype=torch.float32)


def write_config(folder: Path, architecture: str, **changes: Any) -> None:
    config = getattr(transformers, architecture).config_class(**BASE | changes)
    config.architectures = [architecture]
    config.save_pretrained(folder)


@pytest.mark.parametrize(
    "architecture, changes, reason",
    [
        ("MambaForCausalLM", {}, "recurrent state"),
        ("RwkvForCausalLM", {}, "recurrent state"),
        ("JambaForCausalLM", {}, "recurrent state"),
        ("FalconH1ForCausalLM", {}, "recurrent state"),
        ("Qwen3NextForCausalLM", {}, "recurrent state"),
        ("RecurrentGemmaForCausalLM", {}, "recurrent state"),
        ("MiniMaxForCausalLM", {}, "layers of linear_attention"),
        ("Lfm2ForCausalLM", {"layer_types": ["conv", "conv", "full_attention"]}, "layers of conv"),
        ("BertLMHeadModel", {"is_decoder": True, "add_cross_attention": True}, "cross-attention"),
        ("BertForMaskedLM", {}, "causal language model is BertLMHeadModel"),
        ("GitForCausalLM", {}, "its attention does not go through .* interface"),
    ],
)
def test_what_the_cache_cannot_hold_is_refused_before_weights_are_read(
    tmp_path: Path, architecture: str, changes: dict[str, Any], reason: str
) -> None:
    write_config(tmp_path, architecture, **changes)
    with pytest.raises(StartupError, match=f"{architecture} is not native to Headrace .*{reason}"):
        load_model(open_checkpoint(tmp_path), OPTIONS)


@pytest.mark.parametrize(
    "architecture, changes, reason",
    [
        ("DogeForCausalLM", {}, "DogeAttention builds an attention mask of its own"),
        ("RoFormerForCausalLM", {"is_decoder": True}, "does not go through .* interface"),
        ("CpmAntForCausalLM", {"dim_head": 16, "dim_ff": 96}, "does not go through .* interface"),
        ("BertLMHeadModel", {}, "BertSelfAttention is not causal"),
        ("HrmTextForCausalLM", {"sliding_window": 8}, "window stands in the attention mask only"),
    ],
)
def test_attention_that_cannot_be_served_is_refused(
    tmp_path: Path, architecture: str, changes: dict[str, Any], reason: str
) -> None:
    make_checkpoint(tmp_path, architecture, changes)
    with pytest.raises(StartupError, match=reason):
        drive(tmp_path)


def test_a_model_that_goes_wrong_on_the_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It mixes each token with the one before it in the batch, whoever's that is."""
    mixing = MODEL.replace("x = self.norm(hidden)", "x = self.norm(hidden + hidden.roll(1, 1))")
    assert mixing != MODEL
    install(tmp_path, monkeypatch, model=mixing)
    make_example(tmp_path)
    with pytest.raises(StartupError, match="its logits differ from transformers' own by"):
        drive(tmp_path)


def test_other_heads_on_the_same_body_are_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "FlexOlmoForCausalLM", FALLBACK["FlexOlmoForCausalLM"])
    change_config(tmp_path, architectures=["FlexOlmoForRewards"])
    with pytest.raises(StartupError, match="FlexOlmoForRewards .* is FlexOlmoForCausalLM"):
        drive(tmp_path)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "ArceeForCausalLM", {})
    change_config(tmp_path, num_hidden_layers=4)
    with pytest.raises(CheckpointError, match=r"model.layers.3.\S+ is in none .*nor are 7 others"):
        drive(tmp_path)


def test_a_wrong_shape_is_an_error(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "ArceeForCausalLM", {})
    change_config(tmp_path, vocab_size=200)
    with pytest.raises(CheckpointError, match=r"expected shape \[200, 64\], found \[199, 64\]"):
        drive(tmp_path)


def test_quantized_checkpoints_are_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "ArceeForCausalLM", {})
    change_config(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(StartupError, match="quantization_config"):
        drive(tmp_path)


def test_adapters_are_refused(tmp_path: Path) -> None:
    write_config(tmp_path, "ArceeForCausalLM")
    checkpoint = replace(open_checkpoint(tmp_path), adapter=Mock())
    with pytest.raises(StartupError, match="adapters are merged into native"):
        load_model(checkpoint, OPTIONS)


def test_bin_weights_are_read_safely(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path, "ArceeForCausalLM", {})
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (prompt,) = random_prompts(20)
    driver = drive(tmp_path)
    (logits,) = driver.step([(driver.start(prompt), 20)])
    assert_close(logits, plain_logits(model, prompt))
    torch.save({"model.norm.weight": Path("/")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        drive(tmp_path)


def test_start_up_says_what_runs_and_how(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_checkpoint(tmp_path, "ArceeForCausalLM", {})
    with caplog.at_level(logging.INFO):
        drive(tmp_path)
    assert "ArceeForCausalLM runs on transformers' code, with continuous batching" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_dummy_weights_need_a_config_only(tmp_path: Path, engine: str) -> None:
    write_config(
        tmp_path, "FlexOlmoForCausalLM", dtype="bfloat16", **FALLBACK["FlexOlmoForCausalLM"]
    )
    driver = ENGINES[engine](tmp_path, load_format="dummy")
    (logits,) = driver.step([(driver.start([1, 2, 3]), 3)])
    assert logits.shape == (3, 199) and torch.isfinite(logits).all()


@pytest.mark.parametrize("architecture", ["ArceeForCausalLM", "PersimmonForCausalLM"])
def test_weights_keep_their_width_on_the_kernels(tmp_path: Path, architecture: str) -> None:
    """Tied embeddings count once; arithmetic is in float32 all the same."""
    model = make_checkpoint(tmp_path, architecture, FALLBACK[architecture]).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    stored = sum(parameter.nbytes for parameter in model.parameters())
    narrow = sum(p.nbytes for p in model.parameters() if p.dim() == 1)
    driver = drive_kernels(tmp_path)
    coded = 0.75 * stored  # 12 bits a number, with tiles of bfloat16
    assert coded <= driver.model.weight_bytes <= (stored + narrow) * 1.2
    (prompt,) = random_prompts(20)
    (logits,) = driver.step([(driver.start(prompt), 20)])
    exact = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    assert_close(logits, plain_logits(exact, prompt))


def test_half_precision_stays_near_float32(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path, "ArceeForCausalLM", {})
    driver = drive(tmp_path, dtype=torch.bfloat16, kv_dtype=torch.bfloat16)
    (prompt,) = random_prompts(40)
    (logits,) = driver.step([(driver.start(prompt), 40)])
    expected = plain_logits(model, prompt)
    assert (logits - expected).norm() / expected.norm() < 0.05


def test_rope_flags_reach_the_model(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    model = make_checkpoint(tmp_path, "ArceeForCausalLM", {"rope_parameters": rope})
    change_config(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    checkpoint = with_rope_scaling(open_checkpoint(tmp_path), "linear", 2.0)
    served, backend = load_model(checkpoint, OPTIONS)
    assert served.max_position == 1024
    driver = Driver(served, backend)
    (prompt,) = random_prompts(40)
    (logits,) = driver.step([(driver.start(prompt), 40)])
    assert_close(logits, plain_logits(model, prompt))
    with pytest.raises(StartupError, match="--rope-scaling dynamic"):
        load_model(with_rope_scaling(open_checkpoint(tmp_path), "dynamic", 2.0), OPTIONS)


@pytest.fixture
def remote_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """A checkpoint with its own code, and the model that made it."""
    package, folder = tmp_path / "package", tmp_path / "checkpoint"
    package.mkdir()
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    with monkeypatch.context() as installed:
        install(package, installed)
        model = make_example(folder)
    (folder / "sluice.py").write_text(MODEL)
    change_config(
        folder,
        auto_map={
            "AutoConfig": "sluice.SluiceConfig",
            "AutoModelForCausalLM": "sluice.SluiceForCausalLM",
        },
    )
    return folder, model


def test_remote_code_runs_only_when_allowed(remote_code: tuple[Path, Any]) -> None:
    folder, model = remote_code
    with pytest.raises(StartupError, match="SluiceForCausalLM .* with --trust-remote-code"):
        drive(folder)
    (prompt,) = random_prompts(40)
    driver = drive(folder, trust_remote_code=True)
    (logits,) = driver.step([(driver.start(prompt), 40)])
    assert_close(logits, plain_logits(model, prompt))


def test_model_types_that_nobody_knows(tmp_path: Path) -> None:
    write_config(tmp_path, "ArceeForCausalLM")
    change_config(tmp_path, model_type="novel", architectures=["NovelForCausalLM"])
    with pytest.raises(StartupError, match="NovelForCausalLM .* 'novel' is not known"):
        drive(tmp_path)


def test_without_transformers_the_extra_is_named(tmp_path: Path) -> None:
    write_config(tmp_path, "ArceeForCausalLM")
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import torch; from pathlib import Path\n"
        "from headrace.checkpoint.checkpoint import open_checkpoint\n"
        "from headrace.models.load import LoadOptions, load_model\n"
        "options = LoadOptions(dtype=torch.float32, device=torch.device('cpu'),"
        " kv_dtype=torch.float32)\n"
        f"load_model(open_checkpoint(Path({str(tmp_path)!r})), options)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert "StartupError" in last and "ArceeForCausalLM" in last
    assert "pip install 'headrace[transformers]'" in last
