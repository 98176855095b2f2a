"""Adapter configurations; the arithmetic is tested in tests/weights/test_lora.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.checkpoint.peft import open_adapter
from headrace.errors import CheckpointError

LORA = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 4, "lora_alpha": 8}


def write(folder: Path, **changes: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(LORA | changes))
    (folder / "adapter_model.bin").touch()
    return folder


def test_scales(tmp_path: Path) -> None:
    adapter = open_adapter(write(tmp_path, rank_pattern={"q_proj": 16}, alpha_pattern={"l.1.*": 2}))
    assert adapter.base == "org/base" and adapter.weights.name == "adapter_model.bin"
    scales = {
        name: adapter.scale(name) for name in ("m.l.0.v_proj", "m.l.0.q_proj", "m.l.1.q_proj")
    }
    assert scales == {"m.l.0.v_proj": 2.0, "m.l.0.q_proj": 0.5, "m.l.1.q_proj": 0.125}
    assert open_adapter(write(tmp_path, use_rslora=True)).scale("x") == 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported, only LORA"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changes the base"),
        ({"r": 0}, "r must be a positive number, found 0"),
        ({"lora_alpha": "8"}, "lora_alpha must be a positive number"),
        ({"rank_pattern": {"q": -1}}, "rank_pattern.*must be a positive number"),
        ({"rank_pattern": {"(": 1}}, "is no pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern must be an object"),
        ({"base_model_name_or_path": None}, "must name the base model"),
    ],
)
def test_what_cannot_be_merged_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"adapter_config.json: .*{message}"):
        open_adapter(write(tmp_path, **changes))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    (write(tmp_path) / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match="neither of adapter_model.safetensors, adapter_m"):
        open_adapter(tmp_path)
