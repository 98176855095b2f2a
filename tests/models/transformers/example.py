"""The model that the documentation shows, as a file and as a checkpoint."""

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[3] / "docs" / "adding-a-model.md"
MODEL, ENTRY_POINT = (
    re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    for language in ("python", "toml")
)


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    entry_points: str = ENTRY_POINT,
    model: str = MODEL,
) -> None:
    """Lay the package out as pip does: its module, and a dist-info that names entry points."""
    (folder / "sluice.py").write_text(model)
    information = folder / "sluice-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sluice\nVersion: 1.0\n")
    header = '[project.entry-points."headrace.architectures"]'
    assert header in entry_points
    lines = entry_points.replace(header, "[headrace.architectures]").replace('"', "")
    (information / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "sluice", raising=False)


def make_example(folder: Path) -> Any:
    """A tiny checkpoint of the installed package's model; returns the model."""
    sluice = import_module("sluice")
    torch.manual_seed(0)
    config = sluice.SluiceConfig(
        vocab_size=199, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    model = sluice.SluiceForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model
