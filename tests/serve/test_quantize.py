"""The command: from a folder and a text file to a folder that serves, and what it refuses."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
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
    return write_floats(tmp_path)


def write_floats(parent: Path, layers: int = 2) -> Path:
    folder = parent / "floats"
    make_floats(folder, vocab_size=256, num_hidden_layers=layers)
    backend = tokenizers.Tokenizer(models.BPE(ALPHABET, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    text = "".join(chr(97 + i * i % 23) for i in range(600))
    (parent / "text.txt").write_text(text)
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


LAYERS = 16


def start(floats: Path, output: Path, stderr: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "headrace", "quantize", floats, output]
    settings = ["--group-size", "32", "--sequence-length", "30", "--sequences", "5"]
    command += ["--calibration", floats.parent / "text.txt", *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str, str]:
    """A process that nobody disturbed, at a terminal: model, output, what it printed, and what was
    on the terminal."""
    floats = write_floats(tmp_path_factory.mktemp("process"), LAYERS)
    output, (ours, theirs) = floats.parent / "whole", pty.openpty()
    process = start(floats, output, theirs)
    os.close(theirs)
    screen = b""
    while piece := _read_terminal(ours):
        screen += piece
    os.close(ours)
    printed, _ = process.communicate()
    assert process.returncode == 0, screen
    return floats, output, printed.decode(), screen.decode()


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux says that the other end is closed
        return b""


Whole = tuple[Path, Path, str, str]


@pytest.mark.slow
def test_a_terminal_shows_a_bar(whole: Whole) -> None:
    _, output, printed, screen = whole
    drawn = re.findall(r"quantizing layers.*?(\d+)/(\d+)", re.sub(r"\x1b\[[\d;?]*\w", "", screen))
    done = [int(count) for count, total in drawn if int(total) == LAYERS]
    assert done == sorted(done) and len(set(done)) > 3 and done[0] < LAYERS / 2
    assert "━" in screen
    perplexity, path = printed.splitlines()
    assert re.fullmatch(r"perplexity \d+\.\d{3} before, \d+\.\d{3} after", perplexity)
    assert path == str(output)


@pytest.mark.slow
def test_a_killed_process_goes_on(whole: Whole) -> None:
    floats, wanted, printed, _ = whole
    output = floats.parent / "killed"
    third = output / "unfinished" / "layer-00002.safetensors"
    process = start(floats, output, subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not third.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert third.exists() and not (output / "config.json").exists()
    again = start(floats, output, subprocess.PIPE)
    out, errors = again.communicate()
    assert again.returncode == 0
    assert out.decode().replace(str(output), str(wanted)) == printed
    assert f"layer {LAYERS} of {LAYERS}" in errors.decode()
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (output, wanted)
    )
    assert first == second
