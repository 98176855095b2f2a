"""Without a GPU nothing is claimed, and no other run has tests that need one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import gpu


def test_without_a_device_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    assert capsys.readouterr().out.strip() == gpu.NOTHING


@pytest.mark.parametrize("mark, expected", [("cuda", "1/2"), ("not slow", "1/2")])
def test_marked_tests_run_only_when_asked_for(mark: str, expected: str) -> None:
    module = "quantization/test_triton_matmul.py::test_it_passes_its_trial"
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", mark]
    output = subprocess.run(
        [*command, str(Path(__file__).parent / module)], capture_output=True, text=True
    ).stdout
    assert f"{expected} tests collected" in output
