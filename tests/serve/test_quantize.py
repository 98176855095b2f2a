"""The command: from a folder and a text file to a folder that serves, and what it refuses."""

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from headrace import cli
from headrace.serve.quantize import LayerDisplay
from tests.calibration.checkpoints import make_floats

ALPHABET = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    """A tiny model whose tokens are bytes."""
    folder = tmp_path / "floats"
    make_floats(folder, vocab_size=256)
    backend = tokenizers.Tokenizer(models.BPE(ALPHABET, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    text = "".join(chr(97 + i * i % 23) for i in range(600))
    (tmp_path / "text.txt").write_text(text)
    return folder


def test_a_text_makes_a_checkpoint(floats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, output = floats.parent / "text.txt", floats.parent / "out"
    arguments = [str(floats), str(output), "--calibration", str(text), "--group-size", "32"]
    assert cli.quantize([*arguments, "--sequence-length", "30", "--sequences", "5"]) == 0
    captured = capsys.readouterr()
    perplexity, path = captured.out.splitlines()
    words = perplexity.split()
    assert (words[0], words[2], words[4]) == ("perplexity", "before,", "after")
    assert float(words[1]) > 1 and float(words[3]) > 1
    assert path == str(output)
    assert (output / "tokenizer.json").read_bytes() == (floats / "tokenizer.json").read_bytes()
    assert "calibrating on 5 sequences of 30 tokens" in captured.err


def test_int4_needs_no_text(floats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = floats.parent / "out"
    assert cli.quantize([str(floats), str(output), "--method", "int4"]) == 0
    assert capsys.readouterr().out == f"{output}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--method gptq needs a text: --calibration FILE"),
        (["--calibration", "none.txt"], "--calibration none.txt: "),
        (["--calibration", "TEXT"], "the calibration text has 600 tokens"),
        (["--calibration", "TEXT", "--damping", "0"], "--damping 0.0: must be greater than 0"),
        (["--calibration", "TEXT", "--sequences", "0"], "--sequences 0: must be at least 1"),
        (["--calibration", "TEXT", "--sequence-length", "1"], "--sequence-length 1: must be at"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, floats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = str(floats.parent / "text.txt")
    given = [text if argument == "TEXT" else argument for argument in arguments]
    assert cli.quantize([str(floats), str(floats.parent / "out"), *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and message in error and error.count("\n") == 1


def test_tgis_command_is_the_same(
    floats: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = floats.parent / "out"
    tgi = ["text-generation-server", "quantize", str(floats), str(output), "--groupsize", "32"]
    more = ["--percdamp", "0.1", "--act-order", "--calibration", str(floats.parent / "text.txt")]
    monkeypatch.setattr("sys.argv", [*tgi, *more, "--sequence-length", "30"])
    assert cli.server() == 0
    assert (output / "model.safetensors").exists()


def test_the_display_tells_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([100.0, 100.0, 110.0, 120.0])
    with caplog.at_level("INFO"), LayerDisplay(lambda: next(times)) as display:
        for done in range(3):
            display.update(done, 2)
    assert caplog.messages == ["layer 0 of 2", "layer 1 of 2, 10 s left", "layer 2 of 2"]
