"""The config.json of checkpoints that draft."""

import json
from pathlib import Path

import pytest

from headrace.checkpoint.speculator import MedusaConfig, MLPSpeculatorConfig, read_speculator
from headrace.errors import CheckpointError

MLP = {"model_type": "mlp_speculator", "n_predict": 3, "emb_dim": 64, "vocab_size": 99}


def write(folder: Path, config: dict[str, object]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_medusa(tmp_path: Path) -> None:
    config = {"medusa_num_heads": 4, "medusa_num_layers": 1, "base_model_name_or_path": "org/base"}
    expected = MedusaConfig(medusa_num_heads=4, base_model_name_or_path="org/base")
    assert read_speculator(write(tmp_path, config)) == expected


@pytest.mark.parametrize(
    "kind", [{}, {"model_type": "x", "architectures": ["MLPSpeculatorPreTrainedModel"]}]
)
def test_mlp_speculator(tmp_path: Path, kind: dict[str, object]) -> None:
    config = MLP | {"n_candidates": 5, "tie_weights": True} | kind
    expected = MLPSpeculatorConfig(n_predict=3, emb_dim=64, vocab_size=99, tie_weights=True)
    assert read_speculator(write(tmp_path, config)) == expected


def test_models_are_no_heads(tmp_path: Path) -> None:
    assert read_speculator(tmp_path) is None
    assert read_speculator(write(tmp_path, {"architectures": ["LlamaForCausalLM"]})) is None
    assert read_speculator(tmp_path / "config.json") is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["LlamaForCausalLMEagle3"]}, "EAGLE heads are not supported"),
        ({"model_type": "eagle"}, "EAGLE heads are not supported"),
        (MLP | {"n_predict": 65}, "n_predict"),
        (MLP | {"emb_dim": "64"}, "emb_dim"),
        ({"medusa_num_heads": 0}, "medusa_num_heads"),
        ({"medusa_num_heads": 3, "medusa_num_layers": 10**9}, "medusa_num_layers"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_speculator(write(tmp_path, config))
