"""Whole checkpoints: what others read in them, what they lose, and runs that were killed."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from headrace.calibration import Recipe, Windows, quantize
from headrace.calibration import checkpoint as finished
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.errors import StartupError
from tests.calibration.checkpoints import make_floats, restore
from tests.models.checkpoints import CASES, make_checkpoint
from tests.models.driver import ENGINES
from tests.quantization.test_formats import PROMPT, error, logits_of

GENERATOR = torch.Generator().manual_seed(3)
WINDOWS = Windows(*(torch.randint(0, 199, (n, 40), generator=GENERATOR).tolist() for n in (6, 3)))
RECIPES = {
    "gptq": Recipe(group_size=32),
    "gptq-act-order": Recipe(group_size=32, is_act_order=True, is_symmetric=False),
    "gptq-8bit-channel": Recipe(bits=8, group_size=-1),
    "int4": Recipe(method="int4", group_size=32),
    "int4-asymmetric": Recipe(method="int4", group_size=64, is_symmetric=False),
    "int4-channel": Recipe(method="int4", group_size=-1),
}


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("floats")
    return folder, make_floats(folder)


@torch.inference_mode()
def perplexity_of(model: Any, windows: list[list[int]]) -> float:
    """By transformers."""
    ids = torch.tensor(windows)
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    return math.exp(torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()))


@torch.inference_mode()
def reference_logits(model: Any) -> torch.Tensor:
    return model(torch.tensor([PROMPT])).logits[0]


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_written_is_what_the_format_says(
    name: str, floats: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, model = floats
    output = tmp_path / "out"
    perplexity = quantize(open_checkpoint(folder), WINDOWS, RECIPES[name], output)
    restored = copy.deepcopy(model)
    restore(output, restored)
    wanted = reference_logits(restored)
    assert error(wanted, reference_logits(model)) > 1e-4  # something was rounded
    for engine in ENGINES.values():
        assert error(logits_of(engine(output)), wanted) < 3e-3
    assert perplexity is not None
    assert math.isclose(perplexity.before, perplexity_of(model, WINDOWS.held_out), rel_tol=1e-4)
    assert math.isclose(perplexity.after, perplexity_of(restored, WINDOWS.held_out), rel_tol=1e-3)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("name", ["int4", "int4-asymmetric", "int4-channel"])
def test_transformers_reads_int4(name: str, floats: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = floats
    output = tmp_path / "out"
    quantize(open_checkpoint(folder), WINDOWS, RECIPES[name], output)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        output,
        quantization_config=transformers.CompressedTensorsConfig(run_compressed=False),
        dtype=torch.float32,
    )
    restored = copy.deepcopy(model)
    restore(output, restored)
    # The library computes the matrix in the scales' float16.
    assert error(reference_logits(theirs), reference_logits(restored)) < 2e-3


def test_transformers_knows_the_gptq_config(floats: tuple[Path, Any], tmp_path: Path) -> None:
    quantize(open_checkpoint(floats[0]), WINDOWS, RECIPES["gptq-act-order"], tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out").quantization_config
    theirs = transformers.GPTQConfig.from_dict(config)
    assert (theirs.bits, theirs.group_size, theirs.sym, theirs.desc_act) == (4, 32, False, True)


def test_a_text_loses_less_by_gptq(tmp_path: Path) -> None:
    """On inputs that correlate: the embedding of few tokens spans few directions."""
    model = make_floats(tmp_path / "floats", vocab_size=24)
    windows = Windows(*([[t % 24 for t in w] for w in part] for part in (
        WINDOWS.calibration, WINDOWS.held_out)))  # fmt: skip
    errors = []
    for method, recipe in {"gptq": RECIPES["gptq"], "int4": RECIPES["int4"]}.items():
        quantize(open_checkpoint(tmp_path / "floats"), windows, recipe, tmp_path / method)
        restored = copy.deepcopy(model)
        restore(tmp_path / method, restored)
        ids = torch.tensor(windows.held_out)
        with torch.inference_mode():
            errors.append((restored(ids).logits - model(ids).logits).norm())
    assert errors[0] < 0.8 * errors[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(Exception):
    pass


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_killed_run_goes_on_to_the_same_bytes(
    layers: int, floats: tuple[Path, Any], tmp_path: Path
) -> None:
    def kill(done: int, total: int) -> None:
        if done == layers:
            raise Killed

    checkpoint, recipe = open_checkpoint(floats[0]), RECIPES["gptq"]
    whole = quantize(checkpoint, WINDOWS, recipe, tmp_path / "whole")
    output = tmp_path / "killed"
    with pytest.raises(Killed):
        quantize(checkpoint, WINDOWS, recipe, output, kill)
    assert not (output / "config.json").exists()
    done = sorted((output / "unfinished").glob("layer-*"))
    assert len(done) == layers
    written = [path.stat().st_mtime_ns for path in done]
    (output / "unfinished" / f"layer-{layers:05}.safetensors.partial").write_bytes(b"half")
    (output / "model.safetensors.partial").write_bytes(b"half")
    seen: list[list[int]] = []

    def look(done_layers: int, total: int) -> None:
        seen.append([path.stat().st_mtime_ns for path in done])

    assert quantize(checkpoint, WINDOWS, recipe, output, look) == whole
    assert all(times == written for times in seen)  # none was made again
    (output / "model.safetensors.partial").unlink(missing_ok=True)
    assert contents(output) == contents(tmp_path / "whole")


def test_layers_of_another_run_are_not_mixed_in(floats: tuple[Path, Any], tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done:
            raise Killed

    checkpoint = open_checkpoint(floats[0])
    with pytest.raises(Killed):
        quantize(checkpoint, WINDOWS, RECIPES["gptq"], tmp_path, kill)
    with pytest.raises(StartupError, match="holds a run with another settings"):
        quantize(checkpoint, WINDOWS, RECIPES["gptq-act-order"], tmp_path)
    others = Windows(WINDOWS.calibration[1:], WINDOWS.held_out)
    with pytest.raises(StartupError, match="holds a run with another calibration text"):
        quantize(checkpoint, others, RECIPES["gptq"], tmp_path)


def test_nothing_is_overwritten(floats: tuple[Path, Any], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(StartupError, match="is not empty: it holds thesis.txt"):
        quantize(open_checkpoint(floats[0]), WINDOWS, RECIPES["gptq"], tmp_path)


def test_large_models_are_sharded(
    floats: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, recipe = open_checkpoint(floats[0]), RECIPES["int4"]
    quantize(checkpoint, WINDOWS, recipe, tmp_path / "one")
    monkeypatch.setattr(finished, "SHARD_BYTES", 40_000)
    quantize(checkpoint, WINDOWS, recipe, tmp_path / "many")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    wanted = load_file(tmp_path / "one" / "model.safetensors")
    assert index["weight_map"].keys() == wanted.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in wanted.values())
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2 and set(index["weight_map"].values()) == {file.name for file in files}
    for file in files:
        tensors = load_file(file)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 40_000
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors.items())
    logits = [logits_of(ENGINES["torch"](tmp_path / name)) for name in ("one", "many")]
    assert torch.equal(*logits)


def test_what_goes_with_the_model_is_copied(floats: tuple[Path, Any], tmp_path: Path) -> None:
    quantize(open_checkpoint(floats[0]), Windows([], []), RECIPES["int4"], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kept = {"chat_template.jinja", "generation_config.json"}
    assert names == kept | {"config.json", "model.safetensors"}
    before = json.loads((floats[0] / "config.json").read_text())
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    del after["quantization_config"]
    assert after == before


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(group_size=128), "128 does not divide the 64 inputs of model.layers.0.*32, 64, -1"),
        (Recipe(group_size=32, bits=4), "is quantized already"),
    ],
)
def test_models_that_cannot_be_quantized(
    recipe: Recipe, message: str, floats: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = floats[0]
    if "already" in message:
        folder = tmp_path / "first"
        quantize(open_checkpoint(floats[0]), WINDOWS, RECIPES["int4"], folder)
    with pytest.raises(StartupError, match=message):
        quantize(open_checkpoint(folder), WINDOWS, recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


FAMILIES = {
    "Qwen2ForCausalLM": "plain",
    "Gemma2ForCausalLM": "window",
    "Olmo2ForCausalLM": "plain",
    # Fused, with heads in groups, reordered, transposed.
    "Phi3ForCausalLM": "plain",
    "GPTNeoXForCausalLM": "plain",
    "FalconForCausalLM": "40b",
    "BloomForCausalLM": "plain",
    "GPTBigCodeForCausalLM": "multi-query",
    "CohereForCausalLM": "plain",
    "GPTJForCausalLM": "plain",
    "GPT2LMHeadModel": "plain",
}
"""A case of each."""


@pytest.mark.parametrize("architecture", FAMILIES)
def test_other_families(architecture: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "floats", architecture, FAMILIES[architecture])
    checkpoint = open_checkpoint(tmp_path / "floats")
    quantize(checkpoint, WINDOWS, RECIPES["gptq"], tmp_path / "out")
    before = reference_logits(model)
    assert restore(tmp_path / "out", model) >= 4 * model.config.num_hidden_layers
    wanted = reference_logits(model)
    assert error(wanted, before) > 1e-4
    for engine in ENGINES.values():
        assert error(logits_of(engine(tmp_path / "out")), wanted) < 3e-3


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize(
    "architecture", ["Phi3ForCausalLM", "GPTNeoXForCausalLM", "CohereForCausalLM"]
)
def test_transformers_reads_fused_layers(architecture: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "floats", architecture, FAMILIES[architecture])
    quantize(open_checkpoint(tmp_path / "floats"), WINDOWS, RECIPES["int4"], tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out",
        quantization_config=transformers.CompressedTensorsConfig(run_compressed=False),
        dtype=torch.float32,
    )
    restore(tmp_path / "out", model)
    assert error(reference_logits(theirs), reference_logits(model)) < 2e-3


@pytest.mark.slow
@pytest.mark.timeout(600)  # importing the library alone takes long
@pytest.mark.filterwarnings("ignore")  # many, of the library
@pytest.mark.parametrize("name", ["gptq", "gptq-act-order", "gptq-8bit-channel"])
@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Phi3ForCausalLM"])
def test_transformers_reads_gptq(name: str, architecture: str, tmp_path: Path) -> None:
    """With GPTQModel, whose products in torch run on the CPU too."""
    pytest.importorskip("gptqmodel", exc_type=ImportError)
    model = make_checkpoint(tmp_path / "floats", architecture, FAMILIES[architecture])
    quantize(open_checkpoint(tmp_path / "floats"), WINDOWS, RECIPES[name], tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out",
        device_map="cpu",
        dtype=torch.float32,
        quantization_config=transformers.GPTQConfig(bits=RECIPES[name].bits, backend="gptq_torch"),
    )
    assert any(type(module).__name__ == "TorchLinear" for module in theirs.modules())
    restore(tmp_path / "out", model)
    # Scales are float16, and so are the library's products.
    assert error(reference_logits(theirs), reference_logits(model)) < 3e-3


@pytest.mark.parametrize(
    ("architecture", "case", "recipe", "message"),
    [
        ("GptOssForCausalLM", None, "gptq", "gate_up_proj with other layers"),
        ("GPT2LMHeadModel", "plain", "int4", r"transposed in the checkpoint \(Conv1D\)"),
    ],
)
def test_forms_that_cannot_be_written(
    architecture: str, case: str | None, recipe: str, message: str, tmp_path: Path
) -> None:
    make_checkpoint(tmp_path / "floats", architecture, case or next(iter(CASES[architecture])))
    checkpoint = open_checkpoint(tmp_path / "floats")
    with pytest.raises(StartupError, match=message):
        quantize(checkpoint, WINDOWS, RECIPES[recipe], tmp_path / "out")
    assert not (tmp_path / "out").exists()
