"""Architectures of installed packages, through a real entry point."""

import json
from pathlib import Path

import pytest

from headrace.errors import StartupError
from headrace.models import spec_of
from tests.models.checkpoints import make_checkpoint
from tests.models.driver import ENGINES
from tests.models.test_decoder import assert_close, random_prompts
from tests.models.transformers.checkpoints import plain_logits
from tests.models.transformers.example import install, make_example


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_the_documented_model_is_served(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    install(package, monkeypatch)
    model = make_example(tmp_path / "checkpoint")
    prompts = random_prompts(3, 40, 1, 70)
    driver = ENGINES[engine](tmp_path / "checkpoint")
    sequences = [driver.start(prompt) for prompt in prompts]
    outputs = driver.step([(s, len(s.tokens)) for s in sequences])
    for prompt, logits in zip(prompts, outputs, strict=True):
        assert_close(logits, plain_logits(model, prompt))


def test_a_package_may_describe_a_decoder(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        package,
        monkeypatch,
        '[project.entry-points."headrace.architectures"]\nMine = "headrace.models.llama:spec"\n',
    )
    make_checkpoint(tmp_path, "LlamaForCausalLM", "plain")
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["Mine"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tokens,) = ENGINES["torch"](tmp_path).greedy([[1, 2, 3]], 8)
    config["architectures"] = ["LlamaForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ENGINES["torch"](tmp_path).greedy([[1, 2, 3]], 8) == [tokens]


def test_a_broken_package_is_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        package,
        monkeypatch,
        '[project.entry-points."headrace.architectures"]\nMine = "sluice:Missing"\n',
    )
    with pytest.raises(StartupError, match="entry point Mine = sluice:Missing"):
        spec_of({"architectures": ["Mine"]})
